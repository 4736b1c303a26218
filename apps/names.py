"""Flags whose value is a name, in any case and with or without `_`."""

import difflib

from absl import flags

# The --help of a program lists these flags as its own, not as flags of this module.
flags.disclaim_key_flags()


def define(name, default, known, help_text):
    """Defines a flag whose value is one of the names `known`; help and errors list them.

    Args:
        name: str, the name of the flag.
        default: str or `None`.
        known: iterable of str, the values that the flag accepts.
        help_text: str.
    """
    parser = _Parser(sorted(known))
    choices = "|".join(parser.known)
    flags.DEFINE(parser, name, default, f"<{choices}>: {help_text}")


def snake_case(cls):
    """Returns the name of a class in snake case: `random_start_fgsm` for `RandomStartFGSM`."""
    name, words = cls.__name__, ""
    for index, letter in enumerate(name):
        follows_small = index > 0 and name[index - 1].islower()
        begins_word = index > 0 and name[index + 1 : index + 2].islower() and letter.isupper()
        words += "_" * (letter.isupper() and (follows_small or begins_word)) + letter.lower()
    return words


class _Parser(flags.ArgumentParser):
    def __init__(self, known):
        self.known = known
        self._names = {_normalized(name): name for name in known}

    def parse(self, argument):
        key = _normalized(argument)
        if key in self._names:
            return self._names[key]
        near = difflib.get_close_matches(key, self._names, n=1)
        hint = f"; did you mean {self._names[near[0]]}?" if near else ""
        # absl puts the name and the value of the flag in front of this message.
        raise ValueError(f"value should be one of <{'|'.join(self.known)}>{hint}")

    def flag_type(self):
        return "string name"


def _normalized(name):
    return name.lower().replace("_", "")
