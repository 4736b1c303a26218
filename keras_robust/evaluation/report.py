"""What an evaluation found, as a value: table, JSON, and the arrays behind them."""

import dataclasses
import json
import pathlib

import numpy as np
from rich.table import Table

SCHEMA = "keras_robust.robustness_report"
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class AttackReport:
    """How a model stood against one attack.

    Args:
        name: str, the class of the attack.
        settings: dict, its constructor arguments.
        accuracy: float, the share of examples that it left correctly classified.
        accuracy_so_far: float, the share that it and all attacks before it left so.
        zero_gradient: float, the share of correctly classified examples for which every input
            gradient was zero: the attack was blind there.
        seconds: float, wall time.
        robust: bool array `(num_examples,)`; not in the JSON.
    """

    name: str
    settings: dict
    accuracy: float
    accuracy_so_far: float
    zero_gradient: float
    seconds: float
    robust: np.ndarray = dataclasses.field(default=None, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class RobustnessReport:
    """The result of `keras_robust.evaluate`.

    `robust_accuracy` counts an example only if the model is right on it and stays right under every
    attack and every restart: the per-example worst case. `print(report)` shows a table,
    `rich.print(report)` the same in colour, `report.save(path)` writes JSON.

    Args:
        threat_model: dict, the class of the threat model, its arguments as they were given, and
            `epsilon` as a number or a list.
        num_examples: int.
        num_classes: int.
        clean_accuracy: float.
        robust_accuracy: float.
        confidence: pair of floats, the two-sided 95% Clopper-Pearson interval of robust accuracy:
            what the number of examples allows to say.
        attacks: list of `AttackReport`.
        warnings: list of str, what makes the numbers doubtful.
        seed: int.
        versions: dict of str.
        seconds: float, wall time of everything.
        x, y, x_adv, logits, adv_logits: arrays, one row per example, with the strongest adversarial
            example found and the logits before and after; not in the JSON. For a model with
            several inputs, `x` and `x_adv` are structures of arrays.
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
    x: np.ndarray = dataclasses.field(default=None, repr=False, compare=False)
    y: np.ndarray = dataclasses.field(default=None, repr=False, compare=False)
    x_adv: np.ndarray = dataclasses.field(default=None, repr=False, compare=False)
    logits: np.ndarray = dataclasses.field(default=None, repr=False, compare=False)
    adv_logits: np.ndarray = dataclasses.field(default=None, repr=False, compare=False)

    def to_dict(self):
        """Returns what JSON can hold: everything but the arrays."""
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.repr
        }
        plain["attacks"] = [
            {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack)[:-1]}
            for attack in self.attacks
        ]
        plain["confidence"] = list(self.confidence)
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **plain}

    @classmethod
    def from_dict(cls, plain):
        """Returns the report that `to_dict` made `plain` from, without the arrays."""
        plain = dict(plain) if isinstance(plain, dict) else {}
        found = plain.pop("schema", None), plain.pop("schema_version", None)
        if found != (SCHEMA, SCHEMA_VERSION):
            raise ValueError(
                f"Expected a report with schema {SCHEMA!r} and schema_version {SCHEMA_VERSION}. "
                f"Received: schema={found[0]!r}, schema_version={found[1]!r}"
            )
        plain["attacks"] = [AttackReport(**attack) for attack in plain["attacks"]]
        plain["confidence"] = tuple(plain["confidence"])
        return cls(**plain)

    def save(self, path):
        """Writes the report as JSON; a reader never sees half of it."""
        path = pathlib.Path(path)
        temporary = path.with_name(f".{path.name}.partial")
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path):
        """Reads a report that `save` wrote."""
        return cls.from_dict(json.loads(pathlib.Path(path).read_text(encoding="utf-8")))

    def plot(self, path=None, num_examples=5):
        """Draws clean image, perturbation and adversarial image, with both confidences.

        See `keras_robust.evaluation.draw_examples`. Needs matplotlib: the extra `plots`.
        """
        from keras_robust.evaluation.picture import draw_examples

        return draw_examples(self, path=path, num_examples=num_examples)

    def __rich__(self):
        return compare({"accuracy": self})

    def __str__(self):
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get().rstrip()


def compare(reports):
    """Returns a `rich.table.Table` that puts reports on the same examples side by side.

    Args:
        reports: dict from column heading to `RobustnessReport`; all under the same threat model,
            attacks and number of examples.
    """
    first = next(iter(reports.values()))
    name, epsilon = first.threat_model["class_name"], first.threat_model["epsilon"]
    given = first.threat_model["config"].get("epsilon")
    if isinstance(given, str):
        epsilon = given
    elif isinstance(epsilon, list):
        epsilon = f"{np.min(epsilon):g} to {np.max(epsilon):g}"
    table = Table(
        title=f"{name}, epsilon {epsilon}, {first.num_examples} examples",
        caption="\n".join(
            f"{heading}: {warning}" for heading, r in reports.items() for warning in r.warnings
        ),
    )
    table.add_column("")
    for heading in reports:
        table.add_column(heading, justify="right")
    table.caption_justify = "left"
    table.add_row("clean", *(_percent(r.clean_accuracy) for r in reports.values()))
    for row in zip(*(r.attacks for r in reports.values()), strict=True):
        table.add_row(
            label(row[0].name, row[0].settings), *(_percent(attack.accuracy) for attack in row)
        )
    table.add_section()
    table.add_row("robust (worst case)", *(_percent(r.robust_accuracy) for r in reports.values()))
    table.add_row(
        "95% interval", *("{:.1%} - {:.1%}".format(*r.confidence) for r in reports.values())
    )
    return table


def _percent(share):
    return f"{share:.1%}"


def label(name, settings):
    """Name and the settings that tell strength: `PGD-50x10 margin`."""
    if settings.get("num_steps", 1) > 1:
        name += f"-{settings['num_steps']}"
    if settings.get("num_restarts", 1) > 1:
        name += f"x{settings['num_restarts']}"
    loss = settings.get("loss")
    return name if loss is None else f"{name} {loss}"
