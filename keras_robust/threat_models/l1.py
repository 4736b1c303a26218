"""The `L1` threat model: the sum of the absolute changes is at most epsilon."""

import keras
from keras import ops

from keras_robust import backend
from keras_robust.threat_models.hyperplane_step import FAR
from keras_robust.threat_models.hyperplane_step import largest_of
from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

_BISECTION_STEPS = 40  # More than the 24 bits of float32.
_LONGEST = 1e3
_TINY = 1e-30


@keras.saving.register_keras_serializable(package="keras_robust")
class L1(ThreatModel):
    """Perturbations whose absolute changes sum to at most `epsilon`: few, large changes.

    `sum_i |x_adv_i - x_i| <= epsilon`. Steepest ascent is sparse: the whole step goes to the
    coordinate with the largest gradient. `step` fills the coordinates in the order of their
    gradients, each up to its bound, so that no part of a step is lost in a coordinate that cannot
    move.

    The projection onto the intersection of ball and box is exact (Croce and Hein, 2021). With
    `cap_i` the room of coordinate `i`, `|delta_i| <- min(cap_i, max(|delta_i| - lambda, 0))` with
    the smallest feasible `lambda >= 0`, found by bisection. Deviations from their code: bisection
    instead of sorting.

    Args:
        epsilon: radius, in the units of the input. A number, a string, a `LearningRateSchedule`, or
            an array with one value per example, `(n,)` or `(n, 1, 1, 1)`. Defaults to `12.0`.
        bounds: pair `(low, high)` of valid inputs, numbers or per-channel arrays, or `None`.
            Defaults to `(0.0, 1.0)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> l1 = kr.threat_models.L1(0.5)
    >>> x_adv = l1.project(np.array([[0.7, 1.3]], "float32"), np.array([[0.3, 0.9]], "float32"))
    >>> print(np.round(x_adv, 2))
    [[0.7 1. ]]

    References:
        - [Croce and Hein, 2021](https://arxiv.org/abs/2103.01208)
        - [Tramer and Boneh, 2019](https://arxiv.org/abs/1904.13000)
    """

    has_sparse_steps = True
    order = 1

    def __init__(self, epsilon=12.0, bounds=(0.0, 1.0)):
        super().__init__(epsilon, bounds)

    def project(self, x_adv, x):
        delta = x_adv - x
        sizes, caps = flatten(ops.abs(delta)), flatten(self._headroom(x, delta))
        budget = ops.expand_dims(self._radius_per_example(), -1)
        sizes = _shrink(sizes, caps, budget)
        return self.clip(x + ops.sign(delta) * ops.reshape(sizes, ops.shape(x)))

    def steepest_direction(self, gradient):
        flat = flatten(gradient)
        largest = ops.argmax(ops.abs(flat), axis=-1)
        first = ops.one_hot(largest, ops.shape(flat)[-1], dtype="float32")
        return ops.reshape(first * ops.sign(flat), ops.shape(gradient))

    def step(self, x_adv, gradient, step_size):
        flat = flatten(gradient)
        step_size = ops.reshape(ops.convert_to_tensor(step_size, dtype="float32"), (-1, 1))
        order = ops.argsort(-ops.abs(flat), axis=-1)
        room = flatten(self._headroom(x_adv, gradient))
        room = ops.minimum(ops.take_along_axis(room, order, axis=-1), step_size)
        used = ops.cumsum(room, axis=-1) - room
        fill = ops.clip(step_size - used, 0.0, room)
        # A coordinate that reaches its bound is pushed beyond it. The projection subtracts the same
        # amount from every coordinate and then leaves this one at the bound.
        fill = ops.where(used + room < step_size, step_size, fill)
        fill = ops.take_along_axis(fill, ops.argsort(order, axis=-1), axis=-1)
        return x_adv + ops.reshape(fill * ops.sign(flat), ops.shape(x_adv))

    def linear_maximization_oracle(self, direction, x):
        # A fractional knapsack problem: fill the largest coordinates first, each up to its bound.
        return self.project(self.step(x, direction, self._radius_per_example()), x)

    def random_start(self, x, seed):
        # d of d + 1 exponential numbers, divided by their sum, fill the simplex uniformly. `noise`
        # provides the signs as well.
        batch_size, features = ops.shape(flatten(x))
        noise = backend.uniform((batch_size, features + 1), seed, minval=-1.0, maxval=1.0)
        sizes = -ops.log(ops.maximum(ops.abs(noise), 1e-30))
        noise = ops.sign(noise) * sizes / ops.sum(sizes, axis=-1, keepdims=True)
        noise = ops.reshape(noise[:, :features], ops.shape(x))
        return self.project(x + per_example(self._radius_per_example(), x) * noise, x)

    def random_start_on_sphere(self, x, seed):
        noise = backend.normal(ops.shape(x), seed)
        # Long enough to reach the sphere, but short enough for an exact projection in float32.
        radius = self._radius_per_example()
        least = radius / ops.sum(flatten(ops.abs(noise)), axis=-1)
        length = ops.maximum(least, ops.minimum(_LONGEST * radius, 1.0))
        return self.project(x + per_example(length, x) * noise, x)

    def project_onto_hyperplane(self, x, gradient, change):
        direction = gradient * per_example(ops.sign(change), x)
        # In units of the largest entry, because products with huge entries overflow float32.
        largest = largest_of(ops.abs(gradient))
        size, change = flatten(ops.abs(gradient)) / largest, ops.abs(change) / largest[:, 0]
        room = ops.minimum(flatten(self._headroom(x, direction)), FAR)
        # Fill the coordinates with the largest gradients first, each up to its bound.
        order = ops.argsort(-size, axis=-1)
        ordered, room = (ops.take_along_axis(part, order, axis=-1) for part in (size, room))
        before = ops.cumsum(ordered * room, axis=-1) - ordered * room
        left = ops.maximum(ops.expand_dims(change, -1) - before, 0.0)
        step = ops.minimum(room, left / ops.maximum(ordered, _TINY))
        step = ops.take_along_axis(step, ops.argsort(order, axis=-1), axis=-1)
        return ops.reshape(step, ops.shape(x)) * ops.sign(direction)

    def distance(self, x_adv, x):
        return ops.sum(flatten(ops.abs(x_adv - x)), axis=-1)


def _shrink(sizes, caps, budget):
    """Returns `min(caps, max(sizes - t, 0))` with the smallest `t >= 0` that fits the budget."""

    def total(threshold):
        return ops.sum(_threshold(sizes, caps, threshold), axis=-1, keepdims=True)

    def bisect(_, bracket):
        low, high = bracket
        # The sum of both ends may overflow float32.
        middle = low + 0.5 * (high - low)
        fits = total(middle) <= budget
        return ops.where(fits, low, middle), ops.where(fits, middle, high)

    largest = ops.max(sizes, axis=-1, keepdims=True)
    bracket = (ops.zeros_like(largest), largest)
    _, high = backend.fori_loop(0, _BISECTION_STEPS, bisect, bracket)
    # Only the upper end is known to fit the budget. Inside of the ball nothing shrinks.
    return _threshold(sizes, caps, ops.where(total(0.0) <= budget, 0.0, high))


def _threshold(sizes, caps, threshold):
    return ops.minimum(ops.maximum(sizes - threshold, 0.0), caps)
