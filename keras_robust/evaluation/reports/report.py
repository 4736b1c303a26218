"""The report of an evaluation, with its table, JSON, HTML page and arrays."""

import dataclasses
import json

import numpy as np
from rich.console import Console

from keras_robust.atomic import write_text
from keras_robust.evaluation.checks.check import Check
from keras_robust.evaluation.outcomes import outcomes_of
from keras_robust.evaluation.reports.attack_report import AttackReport
from keras_robust.evaluation.reports.example_plot import draw_examples
from keras_robust.evaluation.reports.html.page import make_page
from keras_robust.evaluation.reports.json_types import read_json
from keras_robust.evaluation.reports.merging import merged_fields
from keras_robust.evaluation.reports.proof_report import ProofReport
from keras_robust.evaluation.reports.schema import PROOF_FIELDS
from keras_robust.evaluation.reports.schema import SCHEMA
from keras_robust.evaluation.reports.schema import WITH_PROOFS
from keras_robust.evaluation.reports.schema import WITHOUT_PROOFS
from keras_robust.evaluation.reports.schema import check_report
from keras_robust.evaluation.reports.schema import to_plain
from keras_robust.evaluation.reports.shard_record import ShardRecord
from keras_robust.evaluation.reports.table import summarise


def _array():
    # `repr=False` also keeps the field out of the JSON. `==` of arrays has no single truth value.
    return dataclasses.field(default=None, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class RobustnessReport:
    """The result of `keras_robust.evaluate`.

    `robust_accuracy` counts an example only if the model classifies it correctly, and still does
    under every attack and restart: the per-example worst case. `print(report)` shows a table,
    `rich.print(report)` shows it in color, `report.save(path)` writes JSON, and
    `report.save_html(path)` writes a page with all results.

    Args:
        threat_model: dict, the class of the threat model, its arguments as given by the user, and
            `epsilon` as a number or a list.
        num_examples: int.
        num_classes: int.
        clean_accuracy: float.
        robust_accuracy: float.
        confidence: pair of floats, the two-sided 95% Clopper-Pearson interval of robust accuracy,
            which depends on the number of examples.
        attacks: list of `AttackReport`.
        warnings: list of str, the reasons to doubt the numbers.
        seed: int.
        versions: dict of str.
        seconds: float, the wall time of the whole evaluation.
        suite: str, the name of the suite of attacks; `None` for a custom list.
        batch_size: int; `None` if not recorded.
        queries: int, the number of calls of the model by all attacks, summed over the examples; a
            gradient counts as one more call. `None` if not recorded.
        checks: list of `Check`, which say whether to believe the numbers. Defaults to an empty
            list.
        curve: dict, the `robustness_curve`, and under `"attack"` the label of the minimum-norm
            attack; or `None`.
        median_distance: float, the median size of the smallest perturbation found, 0 for clean
            mistakes; `None` if none was found for at least half of the examples, or if it was not
            measured.
        per_class: list of dicts, see `accuracy_per_class`; or `None`.
        inputs: dict with `"low"`, `"high"` and `"num_features"` of the clean inputs; `None` if the
            model has several.
        confusion: list of lists of int, `counts[true][predicted]` on the strongest adversarial
            examples; or `None`.
        certificates: list of `ProofReport`. Defaults to an empty list.
        certified_accuracy: float, the share of examples that a certificate proves robust, a lower
            bound of the accuracy under any attack; `None` if no certificate ran.
        shard: `ShardRecord`, what `merge` needs to know of a shard, whose examples alone this
            report is about; `None` for a whole evaluation.
        x, y, x_adv, logits, adv_logits: arrays with one row per example: the clean inputs, the
            labels, the strongest adversarial examples found, and the logits of both inputs; not in
            the JSON. For a model with several inputs, `x` and `x_adv` are structures of arrays.
        distances: array `(num_examples,)`, the size of the smallest perturbation found, `np.inf` if
            none was found; not in the JSON.
        robust, proved: bool arrays `(num_examples,)`, whether the model is right under all attacks,
            and whether a certificate proves that; not in the JSON.
    """

    threat_model: dict
    num_examples: int
    num_classes: int
    clean_accuracy: float
    robust_accuracy: float
    confidence: tuple
    attacks: list
    warnings: list
    seed: int
    versions: dict
    seconds: float
    suite: str | None = None
    batch_size: int | None = None
    queries: int | None = None
    checks: list = dataclasses.field(default_factory=list)
    curve: dict | None = None
    median_distance: float | None = None
    per_class: list | None = None
    inputs: dict | None = None
    confusion: list | None = None
    certificates: list = dataclasses.field(default_factory=list)
    certified_accuracy: float | None = None
    shard: ShardRecord | None = None
    x: np.ndarray = _array()
    y: np.ndarray = _array()
    x_adv: np.ndarray = _array()
    logits: np.ndarray = _array()
    adv_logits: np.ndarray = _array()
    distances: np.ndarray = _array()
    robust: np.ndarray = _array()
    proved: np.ndarray = _array()

    @property
    def outcomes(self):
        """What is known of each example in the ball, in the words of ISO/IEC 24029-2.

        A list of str: `"broken"` for a mistake, without an attack or under one; `"proved"` for an
        example that a certificate proves robust; and `"inconclusive"` for the others. `None` for a
        report that was read from a file.
        """
        return None if self.robust is None else outcomes_of(~self.robust, self.proved)

    def to_dict(self):
        """Returns the report as a dict that JSON can hold, without the arrays."""
        fields = to_plain(self)
        if self.shard is None:
            del fields["shard"]
        if self.certificates:
            return {"schema": SCHEMA, "schema_version": WITH_PROOFS, **fields}
        # Earlier releases can read a report that uses nothing of the new version.
        old = {name: value for name, value in fields.items() if name not in PROOF_FIELDS}
        return {"schema": SCHEMA, "schema_version": WITHOUT_PROOFS, **old}

    @classmethod
    def from_dict(cls, fields):
        """Returns the report for a dict that `to_dict` returned, without the arrays.

        Raises:
            ValueError: if a field is missing, unknown, of another type or out of range.
        """
        check_report(fields)
        fields = {name: fields[name] for name in fields if not name.startswith("schema")}
        fields["attacks"] = [AttackReport(**attack) for attack in fields["attacks"]]
        proofs = fields.get("certificates", [])
        fields["certificates"] = [ProofReport(**proof) for proof in proofs]
        fields["checks"] = [Check(**check) for check in fields["checks"]]
        fields["confidence"] = tuple(fields["confidence"])
        if fields.get("shard") is not None:
            fields["shard"] = ShardRecord(**fields["shard"])
        return cls(**fields)

    @classmethod
    def merge(cls, reports):
        """Returns the report of a whole evaluation from the reports of all its shards.

        The numbers are those that `evaluate(..., shard="0/1")` reports on one machine, to the bit
        on equal machines: counts, intervals, classes, the curve and the checks are computed anew
        from the results of the examples, and queries and seconds are sums. `evaluate` without
        `shard` computes in batches of other sizes, so that its distances may differ by rounding.
        Every shard checks the inputs, the outputs and the radius on all examples, and those checks
        are kept; of the check of determinism the worst. A model that draws random numbers draws
        others in every shard, so only for such a model the report is not that of one machine.

        Args:
            reports: list of `RobustnessReport` in any order, from `evaluate` or from `load`. The
                merged report has arrays if all of them have.

        Raises:
            ValueError: if a report is not of a shard, if a shard is missing or is there twice, or
                if the shards are not of the same model, data and settings.
        """
        return cls(**merged_fields(reports))

    def save(self, path):
        """Writes the report as JSON; readers never see half of the file."""
        # A page saved by the wrong method would be JSON that no browser shows.
        if str(path).endswith((".html", ".htm")):
            raise ValueError(
                f"`save` writes JSON; use `save_html` for a page. Received: path={str(path)!r}"
            )
        # NaN is not part of JSON, and other programs refuse it.
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path):
        """Reads a report that `save` wrote."""
        return cls.from_dict(read_json(path))

    def save_html(self, path, *, class_names=None, num_examples=5):
        """Writes the report as one HTML file that needs no other file and no network.

        The page shows the numbers, the reasons to doubt them, robust accuracy against the radius,
        the classes, adversarial examples if the inputs are images, and the settings. A report that
        was read from a file has no arrays, so the page has fewer figures. Readers never see half of
        the file. Needs matplotlib, which the extra `plots` installs.

        Args:
            path: str, the file to write.
            class_names: list of str, one per class, or `None` for numbers. Defaults to `None`.
            num_examples: int, the largest number of adversarial examples. Defaults to `5`.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if the number of class names is not the number of classes.
        """
        write_text(path, make_page(self, class_names, num_examples))

    def plot(self, path=None, num_examples=5, class_names=None):
        """Draws clean image, perturbation and adversarial image, with both confidences.

        See `keras_robust.evaluation.draw_examples`. Needs matplotlib, which the extra `plots`
        installs.
        """
        return draw_examples(self, path, num_examples, class_names)

    def __rich__(self):
        return summarise(self)

    def __str__(self):
        # A fixed width, so that text does not depend on the terminal.
        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get().rstrip()
