"""A terminal that keeps what it was shown."""

import io
import re


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True

    def states(self):
        """Every state of every line, without colors: lists of the states, one for each line."""
        plain = re.sub("\x1b\\[[0-9;]*m|\b", "", self.getvalue())
        lines = [line.split("\r") for line in plain.split("\n") if line.strip()]
        return [[state.rstrip() for state in line if state.strip()] for line in lines]

    def lines(self):
        """The lines as they are at the end."""
        return [states[-1] for states in self.states()]
