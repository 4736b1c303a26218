"""The report of a certificate, with its table, JSON and figure."""

import dataclasses
import json
import math
import numbers

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_robust.atomic import write_text
from keras_robust.certification.certificate_figure import draw_certificate
from keras_robust.certification.certificate_schema import SCHEMA
from keras_robust.certification.certificate_schema import SCHEMA_VERSION
from keras_robust.certification.certificate_schema import check_certificate
from keras_robust.certification.certificate_texts import arguments_of
from keras_robust.certification.certificate_texts import decided_radius
from keras_robust.certification.certificate_texts import figures_of
from keras_robust.certification.certificate_texts import title_of
from keras_robust.evaluation.checks.chance import measure_chance
from keras_robust.evaluation.outcomes import outcomes_of
from keras_robust.evaluation.reports.characters import one_line
from keras_robust.evaluation.reports.json_types import read_json
from keras_robust.evaluation.reports.schema import to_plain
from keras_robust.threat_models.parsing import parse_fraction

_NUM_POINTS = 100
_MOST_ROWS = 8


@dataclasses.dataclass(frozen=True)
class CertificateReport:
    """The result of `keras_robust.certify`.

    Certified accuracy at a radius is the share of examples that are classified correctly and have a
    certified radius at least that large. Certified accuracy is a lower bound of the accuracy under
    any attack, while robust accuracy is an upper bound. `print(report)` shows a table,
    `report.save(path)` writes JSON, and `report.plot(path)` draws the curve.

    Args:
        method: dict, the class of the certificate and its arguments.
        norm: str, the norm of the radii: `"L1"`, `"L2"` or `"Linf"`.
        num_examples: int.
        num_classes: int.
        clean_accuracy: float, the share of correct predictions; abstaining is not correct.
        abstained: float, the share of examples without a prediction.
        average_radius: float, the mean certified radius, 0 where the prediction is wrong.
        curve: dict with the lists `"radii"`, ascending from 0, and `"certified_accuracy"`.
        labels: list of int.
        predictions: list of int, -1 if abstained.
        radii: list of float, the certified radius of each prediction, right or wrong.
        seed: int.
        versions: dict of str.
        seconds: float, the wall time.
        broken_radii: list of float, a size of perturbation within which another prediction was
            found, or `None`; empty for methods that do not look for one.
        model_name: str, the name of the model, empty if it is not known.
    """

    method: dict
    norm: str
    num_examples: int
    num_classes: int
    clean_accuracy: float
    abstained: float
    average_radius: float
    curve: dict
    labels: list
    predictions: list
    radii: list
    seed: int
    versions: dict
    seconds: float
    broken_radii: list = dataclasses.field(default_factory=list)
    model_name: str = ""

    def certified_accuracy(self, radius):
        """Returns the share of examples that are correct and certified at a radius.

        Args:
            radius: number of at least 0, or a string such as `"8/255"`.
        """
        number = _parse_radius(radius)
        correct = np.equal(self.labels, self.predictions)
        return float(np.mean(correct & (np.asarray(self.radii) >= number)))

    def outcomes(self, radius):
        """Returns what is known of each example at a radius, in the words of ISO/IEC 24029-2.

        Args:
            radius: number of at least 0, or a string such as `"8/255"`.

        Returns:
            List of str: `"proved"` for a correct prediction that is certified, `"broken"` for a
            wrong one, or one that changes within the radius, and `"inconclusive"` for the others.
        """
        number = _parse_radius(radius)
        labels, predictions = np.asarray(self.labels), np.asarray(self.predictions)
        # An abstention is no mistake.
        broken = (predictions != labels) & (predictions >= 0)
        if self.broken_radii:
            # `None`, no mistake was found, becomes NaN, which is never within the radius.
            broken |= np.array(self.broken_radii, "float64") <= number
        proved = (predictions == labels) & (np.asarray(self.radii) >= number)
        return outcomes_of(broken, proved)

    def to_dict(self):
        """Returns the report as a dict that JSON can hold."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **to_plain(self)}

    @classmethod
    def from_dict(cls, fields):
        """Returns the report for a dict that `to_dict` returned.

        Raises:
            ValueError: if a field is missing, unknown, of another type or out of range, or does not
                follow from the examples.
        """
        check_certificate(fields)
        return cls(**{name: fields[name] for name in fields if not name.startswith("schema")})

    def save(self, path):
        """Writes the report as JSON; readers never see half of the file."""
        # NaN is not part of JSON, and other programs refuse it.
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path):
        """Reads a report that `save` wrote."""
        return cls.from_dict(read_json(path))

    def plot(self, path=None, robustness=None):
        """Draws certified accuracy against the radius. Needs the extra `plots`, for matplotlib.

        Args:
            path: str, the file to write (`.png`, `.svg`, `.pdf`), or `None`. Defaults to `None`.
            robustness: `RobustnessReport` with a curve, of the same model and norm, to draw its
                curve as well: the true robust accuracy lies between the two. Defaults to `None`.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        figure = draw_certificate(self, robustness)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def table(self, radii=None):
        """Returns a table of certified accuracy, for `rich` to print.

        Args:
            radii: list of numbers, or of strings such as `"8/255"`; `None` for 0 and the radius of
                a method that tried only one, else for round numbers up to the largest radius of a
                correct prediction. Defaults to `None`.
        """
        title, figures = title_of(self), figures_of(self)
        width = max(len(title), len(figures))
        lines = [self._chance_warning(), figures, arguments_of(self)]
        caption = Text("\n".join(filter(None, lines)))
        table = Table(title=Text(title), caption=caption, min_width=width + 2)
        table.add_column("radius", justify="right")
        table.add_column("certified accuracy", justify="right")
        names = ["proved"]
        if self.broken_radii:
            names += ["broken", "inconclusive"]
        for name in names[1:]:
            table.add_column(name, justify="right")
        for radius in self._own_radii() if radii is None else radii:
            table.add_row(*self._row(radius, names))
        return table

    def _own_radii(self):
        """Returns the radii of the rows if none are given."""
        decided = decided_radius(self)
        return round_radii(self.curve["radii"][-1]) if decided is None else [0.0, decided]

    def _row(self, radius, names):
        """Returns the texts of a row of the table: the radius, and the share of each outcome."""
        outcomes = self.outcomes(radius)
        text = Text(one_line(radius if isinstance(radius, str) else f"{radius:.4g}"))
        return [text, *(f"{outcomes.count(name) / self.num_examples:.1%}" for name in names)]

    def _chance_warning(self):
        """Returns a warning if accuracy is at chance, or `None`."""
        answered = np.greater_equal(self.predictions, 0)
        labels, predictions = np.asarray(self.labels), np.asarray(self.predictions)
        # An abstention is not a prediction, so it counts neither for nor against the model.
        chance = measure_chance(labels[answered], predictions[answered])
        return None if chance is None else chance.warning

    def __rich__(self):
        return self.table()

    def __str__(self):
        # A fixed width, so that text does not depend on the terminal.
        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get().rstrip()


def _parse_radius(radius):
    number = parse_fraction("radius", radius)
    if not isinstance(number, numbers.Real) or not number >= 0.0:
        raise ValueError(
            "Argument `radius` must be a number of at least 0, or a string such as '8/255'. "
            f"Received: radius={radius!r}"
        )
    return number


def round_radii(largest):
    """Returns at most `_MOST_ROWS` multiples of a round number from 0 to `largest`."""
    if largest == 0.0:
        return [0.0]
    unit = 10.0 ** (math.floor(math.log10(largest)) - 1)
    if unit == 0.0:  # The smallest float64 numbers have no tenth.
        return [0.0, largest]
    for step in (1, 2, 5, 10, 20):
        # The tolerance keeps a quotient that is a whole number from rounding down.
        count = math.floor(largest / (step * unit) + 1e-9) + 1
        if count <= _MOST_ROWS:
            break
    # Rounding to 12 digits removes errors that move a multiple above the largest radius.
    return [float(f"{index * step * unit:.12g}") for index in range(count)]


def certified_curve(correct, radii, num_points=_NUM_POINTS):
    """Returns certified accuracy at radii from 0 to the largest of a correct prediction.

    Args:
        correct: bool array `(n,)`.
        radii: float array `(n,)`.
        num_points: int >= 2, the largest number of radii, which are thinned evenly by rank.

    Returns:
        A dict with the lists `"radii"` and `"certified_accuracy"`.
    """
    ranked = np.sort(radii[correct])
    steps = np.unique(np.concatenate([[0.0], ranked]))
    if len(steps) > num_points:
        steps = steps[np.linspace(0, len(steps) - 1, num_points).round().astype(int)]
    # A certificate at exactly this radius counts, hence side="left".
    at_least = len(ranked) - np.searchsorted(ranked, steps, side="left")
    return {"radii": steps.tolist(), "certified_accuracy": (at_least / len(radii)).tolist()}
