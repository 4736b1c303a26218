"""The report of the accuracy under corruptions, with its table and JSON."""

import dataclasses
import json

import numpy as np
import scipy.stats
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_robust.atomic import write_text
from keras_robust.evaluation.corruption.corruption_schema import FIGURES
from keras_robust.evaluation.corruption.corruption_schema import SCHEMA
from keras_robust.evaluation.corruption.corruption_schema import SCHEMA_VERSION
from keras_robust.evaluation.corruption.corruption_schema import check_fields
from keras_robust.evaluation.corruption.corruption_schema import check_figures
from keras_robust.evaluation.corruption.severities import NUM_SEVERITIES
from keras_robust.evaluation.reports.characters import one_line
from keras_robust.evaluation.reports.json_types import read_json
from keras_robust.evaluation.reports.schema import to_plain
from keras_robust.evaluation.reports.table import interval
from keras_robust.evaluation.reports.table import percent

# Below the error of one image, and above that of a difference of means.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class CorruptionReport:
    """The result of `keras_robust.evaluation.corruptions`.

    Corruptions are not chosen against the model, so accuracy under corruptions says nothing about
    an attacker, and is never called robust accuracy. `print(report)` shows a table, and
    `report.save(path)` writes JSON.

    Args:
        kinds: list of str, the names of the corruptions.
        num_examples: int.
        num_classes: int.
        num_clean_correct: int, the number of correct predictions without corruptions.
        num_correct: list with a list for each kind: the number of correct predictions at each
            severity.
        parameters: str, the published set whose parameters the corruptions have.
        bounds: pair of numbers, the values of black and white.
        baseline: dict with the error of the baseline under each kind, a mean over the severities,
            and under `"clean"` its error without corruptions, or `None`; `None` for no baseline.
        warnings: list of str, the reasons to doubt the numbers.
        seed: int.
        versions: dict of str.
        seconds: float, the wall time.
    """

    kinds: list
    num_examples: int
    num_classes: int
    num_clean_correct: int
    num_correct: list
    parameters: str
    bounds: tuple
    baseline: dict | None
    warnings: list
    seed: int
    versions: dict
    seconds: float

    @property
    def clean_accuracy(self):
        """The share of correct predictions without corruptions."""
        return self.num_clean_correct / self.num_examples

    @property
    def accuracy(self):
        """The accuracy under each corruption, an array `(num_kinds, 5)`."""
        return np.array(self.num_correct) / self.num_examples

    @property
    def mean_accuracy(self):
        """The accuracy under corruptions: the mean over all kinds and severities."""
        return float(self.accuracy.mean())

    @property
    def mean_error(self):
        """The mean error over all kinds and severities, without a baseline: `1 - mean_accuracy`."""
        return 1.0 - self.mean_accuracy

    @property
    def confidence(self):
        """A 95% interval of `mean_accuracy`, a pair of floats.

        The copies of an example depend on each other. So the interval counts an example once: it is
        the Clopper-Pearson interval of `num_examples` predictions with this accuracy, which is
        wider than that of the mean over the copies.
        """
        # The formula of the interval takes counts that are not whole, which `binomtest` refuses.
        size, right = self.num_examples, self.mean_accuracy * self.num_examples
        low, high = right > 0.0, right < size
        return (
            float(scipy.stats.beta.ppf(0.025, right, size - right + 1)) if low else 0.0,
            float(scipy.stats.beta.ppf(0.975, right + 1, size - right)) if high else 1.0,
        )

    @property
    def corruption_errors(self):
        """The error under each kind as a multiple of the baseline's, a list of floats.

        An entry is `None` where the baseline makes no error. `None` without a baseline.
        """
        if self.baseline is None:
            return None
        return [
            _ratio(self._lost(row, self.num_examples), self.baseline[kind])
            for kind, row in zip(self.kinds, self.num_correct, strict=True)
        ]

    @property
    def mean_corruption_error(self):
        """The mCE: the mean of `corruption_errors`, 1 for the baseline itself, or `None`."""
        return _mean(self.corruption_errors)

    @property
    def relative_corruption_errors(self):
        """As `corruption_errors`, of the errors above those without corruptions.

        An entry is `None` where the baseline loses no accuracy. `None` if the clean error of the
        baseline is not known.
        """
        if self.baseline is None or self.baseline["clean"] is None:
            return None
        return [
            _ratio(
                self._lost(row, self.num_clean_correct),
                self.baseline[kind] - self.baseline["clean"],
            )
            for kind, row in zip(self.kinds, self.num_correct, strict=True)
        ]

    @property
    def relative_mean_corruption_error(self):
        """The relative mCE: the mean of `relative_corruption_errors`, or `None`."""
        return _mean(self.relative_corruption_errors)

    def to_dict(self):
        """Returns the report as a dict that JSON can hold, with the figures of its counts."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **to_plain(self), **self._own()}

    @classmethod
    def from_dict(cls, fields):
        """Returns the report for a dict that `to_dict` returned.

        Raises:
            ValueError: if a field is missing, unknown, of another type or out of range, or does not
                follow from the counts.
        """
        check_fields(fields)
        report = cls(**{field.name: fields[field.name] for field in dataclasses.fields(cls)})
        check_figures(fields, report._own())
        return dataclasses.replace(report, bounds=tuple(report.bounds))

    def save(self, path):
        """Writes the report as JSON; readers never see half of the file."""
        # NaN is not part of JSON, and other programs refuse it.
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path):
        """Reads a report that `save` wrote."""
        return cls.from_dict(read_json(path))

    def _lost(self, row, right):
        """Returns the mean share of the examples by which counts fall short of `right`."""
        # From the counts, so that a difference of equal accuracies is exactly 0.
        return (len(row) * right - sum(row)) / (len(row) * self.num_examples)

    def _own(self):
        """Returns the figures that follow from the counts."""
        return {name: to_plain(getattr(self, name)) for name in FIGURES}

    def __rich__(self):
        title = f"Accuracy under corruptions as in {self.parameters}, {self.num_examples} examples"
        notes = [*self._figures(), *map(one_line, self.warnings)]
        table = Table(title=title, caption=Text("\n".join(notes)), caption_justify="left")
        table.add_column("severity")
        for heading in (*range(1, NUM_SEVERITIES + 1), "mean"):
            table.add_column(str(heading), justify="right")
        ratios = self.corruption_errors
        if ratios is not None:
            table.add_column("error / baseline", justify="right")
        for place, (kind, row) in enumerate(zip(self.kinds, self.accuracy, strict=True)):
            cells = [kind, *map(percent, row), percent(row.mean())]
            table.add_row(*cells, *([] if ratios is None else [_number(ratios[place])]))
        table.add_section()
        cells = ["mean", *map(percent, self.accuracy.mean(axis=0)), percent(self.mean_accuracy)]
        table.add_row(*cells, *([] if ratios is None else [_number(self.mean_corruption_error)]))
        return table

    def _figures(self):
        """Returns the figures below the table as lines of text."""
        lines = [
            f"clean accuracy {percent(self.clean_accuracy)}",
            f"95% interval of the mean {interval(self)}",
        ]
        if self.baseline is not None:
            lines.append(
                f"mCE {_number(self.mean_corruption_error)}, "
                f"relative mCE {_number(self.relative_mean_corruption_error)}"
            )
        return lines

    def __str__(self):
        # A fixed width, so that text does not depend on the terminal.
        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get().rstrip()


def _ratio(error, baseline):
    """Returns a quotient, or `None` for a baseline that loses nothing."""
    return float(error / baseline) if baseline > _ROUNDING else None


def _mean(ratios):
    """Returns the mean, or `None` if there are no ratios or one is missing."""
    return None if ratios is None or None in ratios else float(np.mean(ratios))


def _number(value):
    return "-" if value is None else f"{value:.3f}"
