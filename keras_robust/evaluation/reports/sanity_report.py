"""What the sanity checks found, as a value."""

import dataclasses

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_robust.evaluation.checks.check import Check
from keras_robust.evaluation.reports.characters import one_line

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


@dataclasses.dataclass(frozen=True)
class SanityReport:
    """The result of `keras_robust.sanity_check`: `print` shows a table.

    Args:
        checks: list of `Check`, one per question.
    """

    checks: list

    @property
    def failed(self):
        """The checks that failed."""
        return [check for check in self.checks if check.verdict == "failed"]

    def __getitem__(self, name):
        """Returns the check of that name."""
        for check in self.checks:
            if check.name == name:
                return check
        names = ", ".join(check.name for check in self.checks)
        raise KeyError(f"Expected the name of a check: {names}. Received: {name!r}")

    def to_dict(self):
        """Returns what JSON can hold."""
        return {"checks": [dataclasses.asdict(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, plain):
        """Returns the report that `to_dict` made `plain` from."""
        return cls([Check(**check) for check in plain["checks"]])

    def __rich__(self):
        table = Table(title=f"{len(self.failed)} of {len(self.checks)} checks failed")
        for heading in ("check", "value", "threshold", "verdict", "what to do"):
            table.add_column(heading, justify="right" if heading[0] in "vt" else "left")
        for check in self.checks:
            numbers = [_number(check.value), _number(check.threshold)]
            verdict = Text(check.verdict, style=_COLOURS[check.verdict])
            name, advice = Text(one_line(check.name)), Text(one_line(check.advice))
            table.add_row(name, *numbers, verdict, advice)
        return table

    def __str__(self):
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get().rstrip()


def _number(value):
    return "-" if value is None else f"{value:.4g}"
