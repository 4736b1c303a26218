"""The report of one attack."""

import dataclasses

import numpy as np

# The setting that marks a minimum-norm attack, which ran without a radius.
ANY_RADIUS = "any_radius"


@dataclasses.dataclass(frozen=True)
class AttackReport:
    """The result of one attack in an evaluation.

    Args:
        name: str, the class of the attack.
        settings: dict, its constructor arguments.
        accuracy: float, the share of all examples that stay correctly classified under it; `None`
            if it ran only on the examples that the attacks before it left robust.
        accuracy_so_far: float, the share of all examples that stay correctly classified under it
            and all attacks before it.
        zero_gradient: float, the share of correctly classified examples on which every input
            gradient was zero, so that the attack had no direction.
        seconds: float, wall time.
        num_attacked: int, the number of examples that it ran on; `None` if not recorded.
        queries: int, the number of calls of the model, summed over the examples; a gradient counts
            as one more call. `None` if not recorded.
        robust: bool array `(num_examples,)`, which examples are still robust; not in the JSON.
        num_outside: int, the number of its points that left the threat model; not in the JSON.
    """

    name: str
    settings: dict
    accuracy: float | None
    accuracy_so_far: float
    zero_gradient: float
    seconds: float
    num_attacked: int | None = None
    queries: int | None = None
    robust: np.ndarray = dataclasses.field(default=None, repr=False, compare=False)
    num_outside: int = dataclasses.field(default=0, repr=False, compare=False)

    @classmethod
    def of(cls, attack, *, accuracy_so_far=0.0, is_unbounded=False, **fields):
        """Returns the report of an attack, with its settings as values that JSON can hold."""
        settings = {name: to_json(value) for name, value in attack.get_config().items()}
        if is_unbounded:
            settings[ANY_RADIUS] = True
        fields = {"accuracy": None, "zero_gradient": 0.0, "seconds": 0.0, **fields}
        name = type(attack).__name__
        return cls(name=name, settings=settings, accuracy_so_far=accuracy_so_far, **fields)

    def to_dict(self):
        """Returns the report as a dict that JSON can hold, without the arrays."""
        fields = (field.name for field in dataclasses.fields(self) if field.repr)
        return {name: getattr(self, name) for name in fields}

    @property
    def is_unbounded(self):
        """Whether it is the report of a minimum-norm attack, which ran without a radius."""
        return self.settings.get(ANY_RADIUS) is True

    @property
    def label(self):
        """The name with the settings that decide its strength, such as `PGD-50x10 margin`."""
        return label(self.name, self.settings)


def outside_warnings(reports):
    """Returns the warnings for attacks that left the threat model, a list of str."""
    return [
        f"{report.label} left the threat model on {report.num_outside} examples, which are counted "
        "as not broken."
        for report in reports
        if report.num_outside
    ]


def label(name, settings):
    """Returns the name with the settings that decide its strength: `PGD-50x10 margin`."""
    num_steps = _count(settings.get("num_steps"))
    if num_steps > 1:
        name += f"-{num_steps}"
    # Targeted attacks search once for each target, instead of restarting.
    num_searches = _count(settings.get("num_targets", settings.get("num_restarts")))
    if num_searches > 1:
        name += f"x{num_searches}"
    loss = settings.get("loss")
    for part in (
        loss if isinstance(loss, str) else None,
        settings.get(ANY_RADIUS) is True and "(any radius)",
    ):
        name += f" {part}" if part else ""
    return name


def _count(value):
    """Returns an int unchanged, else 1: a custom attack may use the name for another type."""
    return value if isinstance(value, int) else 1


def to_json(value):
    """Returns an argument of an attack as a value that JSON can hold: a function as its name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__name__", repr(value))
