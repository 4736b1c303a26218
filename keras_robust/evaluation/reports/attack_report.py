"""What one attack found, as a value."""

import dataclasses

import numpy as np

# Under this name the settings of a search for the nearest mistakes say that it had no radius.
ANY_RADIUS = "any_radius"


@dataclasses.dataclass(frozen=True)
class AttackReport:
    """How a model stood against one attack.

    Args:
        name: str, the class of the attack.
        settings: dict, its constructor arguments.
        accuracy: float, the share of all examples that it left correctly classified; `None` if it
            saw only those that the attacks before it had left.
        accuracy_so_far: float, the share that it and all attacks before it left so.
        zero_gradient: float, the share of correctly classified examples for which every input
            gradient was zero: the attack was blind there.
        seconds: float, wall time.
        num_attacked: int, the number of examples that it ran on; `None` if not recorded.
        queries: int, the calls of the model, summed over the examples; a gradient counts one more.
            `None` if not recorded.
        robust: bool array `(num_examples,)`; not in the JSON.
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

    @classmethod
    def of(cls, attack, *, accuracy_so_far=0.0, is_unbounded=False, **fields):
        """Returns the report of an attack, with its settings in a form that JSON can hold."""
        settings = {name: _plain(value) for name, value in attack.get_config().items()}
        if is_unbounded:
            settings[ANY_RADIUS] = True
        fields = {"accuracy": None, "zero_gradient": 0.0, "seconds": 0.0, **fields}
        name = type(attack).__name__
        return cls(name=name, settings=settings, accuracy_so_far=accuracy_so_far, **fields)

    def to_dict(self):
        """Returns what JSON can hold: everything but the arrays."""
        fields = (field.name for field in dataclasses.fields(self) if field.repr)
        return {name: getattr(self, name) for name in fields}

    @property
    def label(self):
        """Name and the settings that tell strength: `PGD-50x10 margin`."""
        return label(self.name, self.settings)


def label(name, settings):
    """Name and the settings that tell strength: `PGD-50x10 margin`."""
    num_steps = _count(settings.get("num_steps"))
    if num_steps > 1:
        name += f"-{num_steps}"
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
    """An int as it is, and 1 for what is none: an attack of one's own may call anything so."""
    return value if isinstance(value, int) else 1


def _plain(value):
    """Turns an argument of an attack into what JSON can hold: a function into its name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__name__", repr(value))
