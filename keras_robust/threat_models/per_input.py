"""A threat model for several inputs, each with its own ball and box."""

import copy

import keras
from keras import ops

from keras_robust.threat_models.layout import Layout
from keras_robust.threat_models.layout import map_named
from keras_robust.threat_models.layout import names_of
from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example
from keras_robust.threat_models.threat_model_wrapper import get_plain

_SEED_STRIDE = 0x3C6EF373  # Odd, and far from the small numbers that seeds are.


@keras.saving.register_keras_serializable(package="keras_robust")
class PerInput(ThreatModel):
    """Perturbs several inputs of a model, each within its own threat model.

    `x_adv` is feasible if every named input is feasible under its threat model. Inputs that are not
    named may have any dtype, such as tokens or categories, and are not changed. `AdvTrain`,
    `RobustValidation`, `evaluate` and attacks also accept a plain dict:
    `AdvTrain({"image": "linf", "meta": L2(0.5, bounds=None)})`, or a list for inputs in a list.

    The parts may have different units, so that distances are relative: the distance between two
    points is `max_i distance_i / epsilon_i` over the parts, the radius is 1, and the `step_size` of
    an attack is a share of the radius of each part. The balls are independent, so that the
    projection, the steepest direction and the maximizer of a linear function are computed per part.

    Args:
        parts: dict from the name of an input to a `ThreatModel` or its name. For inputs in a list
            or tuple it is a list by position, with `None` for an input that does not change. Each
            part has its own `bounds` and its own `epsilon`, which may be a schedule or, in `Linf`,
            an array over features.
        epsilon: number or a `LearningRateSchedule`, a factor for all radii. Defaults to `1.0`.

    Raises:
        ValueError: without a part; for a part that is itself a threat model of several inputs or of
            a layer; and for a part with one radius per example. Once data are known: for names that
            are not inputs, and for arrays that do not fit their input.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[-1.0, 1.0], [-2.0, 2.0]], "float32")
    >>> def model(inputs):
    ...     return inputs["age"] @ weights[:1] + inputs["pay"] @ weights[1:]
    >>> x = {"age": np.array([[0.5]]), "pay": np.array([[3.0]]), "job": np.array([7])}
    >>> parts = {"age": kr.Linf(0.25), "pay": kr.L2(5.0, bounds=(0, 100))}
    >>> x_adv = kr.attacks.PGD()(model, x, np.array([1]), parts)
    >>> print({name: value.item() for name, value in x_adv.items()})
    {'age': 0.25, 'pay': 0.0, 'job': 7}

    References:
        - [Madry et al., 2018](https://arxiv.org/abs/1706.06083), the problem for one input.
        - [Ballet et al., 2019](https://arxiv.org/abs/1911.03274), tabular data, whose features
          need different radii.
    """

    def __init__(self, parts, epsilon=1.0):
        super().__init__(epsilon, bounds=None)
        items = list(parts.items()) if isinstance(parts, dict) else list(enumerate(parts))
        self.parts = {name: get_plain(part) for name, part in items if part is not None}
        if not self.parts:
            raise ValueError(
                "PerInput needs the name of an input that the attacker may change, such as "
                f'{{"image": Linf("8/255")}}. Received: parts={parts!r}'
            )
        in_order = [self.parts.get(name) for name, _ in items]
        given = dict(self.parts) if isinstance(parts, dict) else in_order
        self._given = {"parts": given, "epsilon": epsilon}
        self._layout = None

    @property
    def is_scheduled(self):
        return super().is_scheduled or any(part.is_scheduled for part in self.parts.values())

    @property
    def radius(self):
        # Raises ValueError if the radius of a part is a schedule.
        for part in self.parts.values():
            part.radius  # noqa: B018
        return super().radius

    @property
    def bounds(self):
        """The pair `(low, high)` for `(batch_size, total)`; `None` without bounds or data."""
        if self._layout is None:
            return None
        return self._layout.join_bounds([part.bounds for part in self.parts.values()])

    def at(self, step):
        return super().at(step)._with_parts(lambda part: part.at(step))

    def with_bounds(self, bounds):
        """Returns a copy in which every part has this box."""
        return self._with_parts(lambda part: part.with_bounds(bounds))

    def bind(self, model, inputs):
        bound = self._bound_to(inputs)
        layout = bound._layout
        return layout.join(inputs), layout.classifier(model, inputs), bound

    def map_inputs(self, function, inputs):
        return map_named(function, inputs, self._bound_to(inputs).parts)

    def pack(self, x_adv, inputs):
        return Layout(inputs, self.parts).replace(inputs, x_adv)

    def drawn(self, x, seed):
        pieces = zip(self.parts, self._split(x, scaled=False), strict=True)
        other = copy.copy(self)
        other.parts = {
            name: part.drawn(one, _stream(seed, number))
            for number, (name, (part, one)) in enumerate(pieces)
        }
        return other

    def project(self, x_adv, x):
        return self._join(part.project(*pair) for part, *pair in self._split(x_adv, x))

    def steepest_direction(self, gradient):
        return self._join(
            part.radius * part.steepest_direction(one)
            for part, one in self._split(gradient, scaled=False)
        )

    def linear_maximization_oracle(self, direction, x):
        return self._join(
            part.linear_maximization_oracle(*pair) for part, *pair in self._split(direction, x)
        )

    def step(self, x_adv, gradient, step_size):
        share = ops.convert_to_tensor(step_size, dtype="float32")
        return self._join(
            part.step(one, slope, per_example(share, one) * part.radius)
            for part, one, slope in self._split(x_adv, gradient, scaled=False)
        )

    def random_start(self, x, seed):
        return self._random_start(x, seed, "random_start")

    def random_start_on_sphere(self, x, seed):
        return self._random_start(x, seed, "random_start_on_sphere")

    def _random_start(self, x, seed, how):
        starts = (
            getattr(part, how)(one, _stream(seed, number))
            for number, (part, one) in enumerate(self._split(x))
        )
        return self._join(starts)

    def distance(self, x_adv, x):
        shares = [
            _relative_distance(part, *pair) for part, *pair in self._split(x_adv, x, scaled=False)
        ]
        return ops.max(ops.stack(shares), axis=0)

    def contains(self, x_adv, x, tolerance=1e-5):
        if keras.tree.is_nested(x):
            layout = Layout(x, self.parts)
            return self._bound_to(x).contains(layout.join(x_adv), layout.join(x), tolerance)
        inside = [part.contains(*pair, tolerance) for part, *pair in self._split(x_adv, x)]
        return ops.all(ops.stack(inside), axis=0)

    def _with_parts(self, change):
        other = copy.copy(self)
        other.parts = {name: change(part) for name, part in self.parts.items()}
        given = self._given["parts"]
        changed = {name: other.parts.get(name) for name in names_of(given)}
        given = changed if isinstance(given, dict) else list(changed.values())
        other._given = {**self._given, "parts": given}
        return other

    def _bound_to(self, inputs):
        """Returns a copy that knows the shapes of these inputs."""
        given = self._given["parts"]
        if isinstance(given, list) and len(names_of(inputs)) != len(given):
            raise ValueError(
                "A list of threat models needs one entry for each input, with None for an input "
                f"that does not change. Received: {len(given)} entries for the inputs "
                f"{names_of(inputs)}"
            )
        other = copy.copy(self)
        other._layout = Layout(inputs, self.parts)
        # None is the batch size: a part with one radius per example fails here.
        for part, shape in zip(self.parts.values(), other._layout.shapes, strict=True):
            part.check_shape((None, *shape))
        return other

    def _split(self, *tensors, scaled=True):
        """Yields each part and its slices; `scaled` applies the factor `epsilon` to its radius."""
        if self._layout is None:
            raise ValueError(
                "Only `contains` takes the inputs of a model; a step or projection needs the "
                f"tensor that `bind` returns. Received: {self!r} without data"
            )
        pieces = zip(*(self._layout.split(tensor) for tensor in tensors), strict=True)
        for part, own in zip(self.parts.values(), pieces, strict=True):
            yield part.scaled(per_example(self.radius, own[0])) if scaled else part, *own

    def _join(self, parts):
        return ops.concatenate([flatten(part) for part in parts], axis=-1)


def _stream(seed, number):
    """Returns the seed of a part, which draws from its own stream of random numbers."""
    return seed + number * _SEED_STRIDE % 2**31


def _relative_distance(part, x_adv, x):
    """Returns the distance in units of the radius, which may be an array or 0."""
    delta = x_adv - x
    # With radius 0, any change is infinitely far away.
    outside = ops.where(delta == 0.0, ops.zeros_like(delta), float("inf"))
    share = ops.where(part.radius > 0.0, delta / ops.maximum(part.radius, 1e-30), outside)
    return part.distance(share, ops.zeros_like(share))
