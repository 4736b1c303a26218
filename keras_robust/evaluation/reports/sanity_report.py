"""The report of the sanity checks."""

import dataclasses

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_robust.evaluation.checks.check import Check
from keras_robust.evaluation.reports.characters import one_line

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


@dataclasses.dataclass(frozen=True)
class SanityReport:
    """The result of `keras_robust.sanity_check`; `print` shows a table.

    Args:
        checks: list of `Check`.
    """

    checks: list

    @property
    def failed(self):
        """The checks that failed."""
        return [check for check in self.checks if check.verdict == "failed"]

    def __getitem__(self, name):
        """Returns the check with this name."""
        for check in self.checks:
            if check.name == name:
                return check
        names = ", ".join(check.name for check in self.checks)
        raise KeyError(f"Expected the name of a check: {names}. Received: {name!r}")

    def to_dict(self):
        """Returns the report as a dict that JSON can hold."""
        return {"checks": [dataclasses.asdict(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, fields):
        """Returns the report for a dict that `to_dict` returned."""
        return cls([Check(**check) for check in fields["checks"]])

    def __rich__(self):
        table = Table(title=f"{len(self.failed)} of {len(self.checks)} checks failed")
        # Right-align "value", "threshold" and "verdict".
        for heading in ("check", "value", "threshold", "verdict", "what to do"):
            table.add_column(heading, justify="right" if heading[0] in "vt" else "left")
        for check in self.checks:
            numbers = [_number(check.value), _number(check.threshold)]
            verdict = Text(check.verdict, style=_COLOURS[check.verdict])
            # rich would read square brackets in a plain string as its own markup.
            name, advice = Text(one_line(check.name)), Text(one_line(check.advice))
            table.add_row(name, *numbers, verdict, advice)
        return table

    def __str__(self):
        # A fixed width, so that text does not depend on the terminal.
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get().rstrip()


def _number(value):
    return "-" if value is None else f"{value:.4g}"
