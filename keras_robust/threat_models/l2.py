"""The Euclidean length of the perturbation is at most epsilon."""

import keras
from keras import ops

from keras_robust import backend
from keras_robust.threat_models.crossing import crossing
from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

_FAR = 1e12
_TINY = 1e-12
_MAX_NEWTON_STEPS = 30


@keras.saving.register_keras_serializable(package="keras_robust")
class L2(ThreatModel):
    """Perturbations of Euclidean length at most `epsilon`.

    `sqrt(sum_i (x_adv_i - x_i)^2) <= epsilon`; steepest ascent is `gradient / ||gradient||_2`.

    The projection is exact on ball and box together: with `cap_i` the room that coordinate `i` has
    in the direction of `delta_i`, it is `sign(delta_i) * min(sqrt(t) |delta_i|, cap_i)`, and
    `t <= 1` solves `sum_i min(t delta_i^2, cap_i^2) = epsilon^2`. The left side is concave and
    piecewise linear in `t`, so Newton's method from the left ends at the root, and every step on
    the way is feasible. Deviations from the usual code (AutoAttack, foolbox): they scale, then
    clip, which is feasible but not the nearest point.

    Args:
        epsilon: radius, in the units of the input. A number, a string, a `LearningRateSchedule`,
            or an array with one value per example, `(n,)` or `(n, 1, 1, 1)`. Defaults to `0.5`.
        bounds: pair `(low, high)` of valid inputs, numbers or per-channel arrays, or `None`.
            Defaults to `(0.0, 1.0)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> l2 = kr.threat_models.L2(0.5)
    >>> x_adv = l2.project(np.array([[0.9, 1.3]], "float32"), np.array([[0.3, 0.7]], "float32"))
    >>> print(np.round(x_adv, 2))
    [[0.7 1. ]]

    References:
        - [Szegedy et al., 2014](https://arxiv.org/abs/1312.6199)
        - [Madry et al., 2018](https://arxiv.org/abs/1706.06083)
    """

    def __init__(self, epsilon=0.5, bounds=(0.0, 1.0)):
        super().__init__(epsilon, bounds)

    def project(self, x_adv, x):
        return self._shortened(x_adv - x, x)

    def _shortened(self, delta, x):
        """Returns the projection of `x + delta`, without rounding that sum."""
        squares = flatten(ops.square(delta))
        budget = ops.expand_dims(ops.square(self._radius_per_example()), -1)
        scale = _ratio(budget, ops.sum(squares, axis=-1, keepdims=True))
        if self.bounds is None:
            return x + per_example(ops.sqrt(scale), x) * delta
        caps = self._headroom(x, delta)
        scale = _newton(scale, squares, ops.square(flatten(caps)), budget)
        size = ops.minimum(per_example(ops.sqrt(scale), x) * ops.abs(delta), caps)
        return self.clip(x + ops.sign(delta) * size)

    def steepest_direction(self, gradient):
        # Divided by the largest entry first: the squares of a tiny gradient would underflow.
        largest = per_example(ops.max(flatten(ops.abs(gradient)), axis=-1), gradient)
        gradient = gradient / ops.where(largest > 0.0, largest, 1.0)
        norm = ops.sqrt(ops.sum(flatten(ops.square(gradient)), axis=-1))
        return gradient / ops.maximum(per_example(norm, gradient), 1.0)

    def step(self, x_adv, gradient, step_size):
        step_size = per_example(ops.convert_to_tensor(step_size, dtype="float32"), x_adv)
        return x_adv + step_size * self.steepest_direction(gradient)

    def linear_maximiser(self, direction, x):
        # It is `clip(x + direction / lambda)`, and so is the projection of any point that lies far
        # enough in the direction.
        largest = per_example(ops.max(flatten(ops.abs(direction)), axis=-1), direction)
        return self._shortened(_FAR * (direction / ops.where(largest > 0.0, largest, 1.0)), x)

    def random_start(self, x, seed):
        # The first d of d + 2 coordinates of a uniform point on a sphere fill the ball uniformly.
        batch_size, features = ops.shape(flatten(x))
        noise = backend.normal((batch_size, features + 2), seed)
        noise = noise / ops.sqrt(ops.sum(ops.square(noise), axis=-1, keepdims=True))
        noise = ops.reshape(noise[:, :features], ops.shape(x))
        return self.project(x + per_example(self._radius_per_example(), x) * noise, x)

    def sphere_start(self, x, seed):
        noise = backend.normal(ops.shape(x), seed)
        length = self.steepest_direction(noise)
        return self.project(x + per_example(self._radius_per_example(), x) * length, x)

    def cross(self, x, gradient, change):
        room = self._headroom(x, gradient * per_example(ops.sign(change), x))
        return crossing(x, gradient, change, room, ops.abs(gradient))

    def distance(self, x_adv, x):
        return ops.sqrt(ops.sum(flatten(ops.square(x_adv - x)), axis=-1))


def _ratio(budget, used):
    """`budget / used`, at most 1, and 1 where nothing is used."""
    return ops.where(used > budget, budget / ops.maximum(used, _TINY), ops.ones_like(used))


def _newton(scale, squares, caps, budget):
    """The root `t` of `sum min(t * squares, caps) = budget`, or 1; shapes `(n, 1)`, `(n, d)`."""

    def improve(scale):
        capped = scale * squares > caps
        fixed = ops.sum(ops.where(capped, caps, 0.0), axis=-1, keepdims=True)
        free = ops.sum(ops.where(capped, 0.0, squares), axis=-1, keepdims=True)
        return ops.maximum(scale, _ratio(ops.maximum(budget - fixed, 0.0), free))

    def still_moving(scale, last):
        return ops.any(scale > last * (1.0 + 1e-6))

    def body(scale, last):
        return improve(scale), scale

    scale, _ = backend.while_loop(
        still_moving, body, (improve(scale), scale), maximum_iterations=_MAX_NEWTON_STEPS
    )
    return scale
