"""The `L2` threat model: the Euclidean length of the perturbation is at most epsilon."""

import keras
from keras import ops

from keras_robust import backend
from keras_robust.threat_models.hyperplane_step import hyperplane_step
from keras_robust.threat_models.lengths import LARGEST
from keras_robust.threat_models.lengths import normalised
from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

_FAR = 1e12
_TINY = 1e-30
_MAX_NEWTON_STEPS = 30


@keras.saving.register_keras_serializable(package="keras_robust")
class L2(ThreatModel):
    """Perturbations of Euclidean length at most `epsilon`.

    `sqrt(sum_i (x_adv_i - x_i)^2) <= epsilon`. The steepest ascent direction is
    `gradient / ||gradient||_2`.

    The projection onto the intersection of ball and box is exact. With `u` the direction of
    `delta`, and `cap_i` the room of coordinate `i` in that direction, both in units of `epsilon`,
    it is `sign(u_i) * min(sqrt(t) |u_i|, cap_i)`, and `t` solves `sum_i min(t u_i^2, cap_i^2) = 1`.
    The left side is concave and piecewise linear in `t`, so that Newton's method from the left ends
    at the root, and every iterate is feasible. Deviations from common code (AutoAttack, foolbox):
    theirs scales, then clips, which is feasible but not the nearest point.

    Args:
        epsilon: radius, in the units of the input. A number, a string, a `LearningRateSchedule`, or
            an array with one value per example, `(n,)` or `(n, 1, 1, 1)`. Defaults to `0.5`.
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

    order = 2

    def __init__(self, epsilon=0.5, bounds=(0.0, 1.0)):
        super().__init__(epsilon, bounds)

    def project(self, x_adv, x):
        delta = x_adv - x
        return self._shortened(x, delta, *normalised(delta))

    def _shortened(self, x, delta, direction, length):
        """Returns the projection of `x + delta`, without computing this sum, which would round.

        The computation is in units of the radius, because the square of a large radius overflows
        float32.
        """
        radius = self._radius_per_example()
        is_long = per_example(length > radius, x)
        if self.bounds is None:
            return x + ops.where(is_long, per_example(radius, x) * direction, delta)
        caps = self._headroom(x, delta)
        # Neither 0 nor infinity can serve as the unit.
        usable = ops.logical_and(radius > 0.0, ops.isfinite(radius))
        unit = per_example(ops.where(usable, radius, 1.0), x)
        # No coordinate can use more than the radius.
        room = ops.minimum(caps / unit, 2.0)
        reach = ops.clip(length / ops.reshape(unit, (-1,)), 1.0, _FAR)
        scale = _newton(
            flatten(ops.square(direction)),
            flatten(ops.square(room)),
            ops.expand_dims(ops.square(reach), -1),
        )
        shares = ops.minimum(per_example(ops.sqrt(scale), x) * ops.abs(direction), room)
        size = ops.where(is_long, per_example(radius, x) * shares, ops.abs(delta))
        # The rounding of this sum may leave the box.
        return self.clip(x + ops.sign(delta) * ops.minimum(size, caps))

    def steepest_direction(self, gradient):
        return normalised(gradient)[0]

    def step(self, x_adv, gradient, step_size):
        step_size = per_example(ops.convert_to_tensor(step_size, dtype="float32"), x_adv)
        return x_adv + step_size * self.steepest_direction(gradient)

    def linear_maximization_oracle(self, direction, x):
        # The solution is `clip(x + direction / lambda)`, which is also the projection of any point
        # that lies far enough in the direction.
        direction, _ = normalised(direction)
        length = ops.minimum(_FAR * self._radius_per_example(), LARGEST)
        return self._shortened(x, per_example(length, x) * direction, direction, length)

    def random_start(self, x, seed):
        # The first d of d + 2 coordinates of a uniform point on a sphere fill the ball uniformly.
        batch_size, features = ops.shape(flatten(x))
        noise = backend.normal((batch_size, features + 2), seed)
        noise = noise / ops.sqrt(ops.sum(ops.square(noise), axis=-1, keepdims=True))
        noise = ops.reshape(noise[:, :features], ops.shape(x))
        return self.project(x + per_example(self._radius_per_example(), x) * noise, x)

    def random_start_on_sphere(self, x, seed):
        noise = backend.normal(ops.shape(x), seed)
        length = self.steepest_direction(noise)
        return self.project(x + per_example(self._radius_per_example(), x) * length, x)

    def project_onto_hyperplane(self, x, gradient, change):
        room = self._headroom(x, gradient * per_example(ops.sign(change), x))
        return hyperplane_step(x, gradient, change, room, ops.abs(gradient))

    def distance(self, x_adv, x):
        return normalised(x_adv - x)[1]


def _newton(squares, caps, limit):
    """Returns the root `t >= 1` of `sum min(t * squares, caps) = 1`, at most `limit`.

    Args:
        squares: float tensor `(batch_size, features)`, with a sum of 1 for each example.
        caps: float tensor like `squares`.
        limit: float tensor `(batch_size, 1)`, or `(1, 1)` for all examples.
    """

    def improve(scale):
        capped = scale * squares > caps
        fixed = ops.sum(ops.where(capped, caps, 0.0), axis=-1, keepdims=True)
        free = ops.sum(ops.where(capped, 0.0, squares), axis=-1, keepdims=True)
        root = ops.maximum(1.0 - fixed, 0.0) / ops.maximum(free, _TINY)
        return ops.maximum(scale, ops.where(free > _TINY, ops.minimum(root, limit), limit))

    def still_moving(scale, last):
        # Smaller changes are rounding errors of float32, which might never end.
        return ops.any(scale > last * (1.0 + 1e-6))

    def body(scale, last):
        return improve(scale), scale

    first = ops.ones_like(squares[:, :1])
    scale, _ = backend.while_loop(
        still_moving, body, (improve(first), first), maximum_iterations=_MAX_NEWTON_STEPS
    )
    return scale
