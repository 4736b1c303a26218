"""Carlini and Wagner: the smallest Euclidean perturbation, by Adam behind a tanh."""

import typing

import keras
import numpy as np
from keras import ops

from keras_robust.attacks.minimum_norm.binary_search import squared_length
from keras_robust.attacks.minimum_norm.penalty_attack import PenaltyAttack
from keras_robust.attacks.minimum_norm.penalty_attack import hinge_gradient
from keras_robust.threat_models.threat_model import per_example

# Keeps the inverse of tanh finite at the bounds.
_SQUEEZE = 0.999999
_DECAY = 0.9
_SQUARE_DECAY = 0.999
_TINY = 1e-8


class _Adam(typing.NamedTuple):
    """The variable `w` and what Adam remembers of its gradients."""

    w: object
    mean: object
    square: object


@keras.saving.register_keras_serializable(package="keras_robust")
class CarliniWagner(PenaltyAttack):
    """The smallest Euclidean perturbation that changes the class, with confidence if wanted.

    `min_w ||x' - x||_2^2 + c max(z_y - max_{j != y} z_j + kappa, 0)` with
    `x'(w) = middle + half tanh(w)`, which never leaves the bounds; without bounds `x' = x + w`.
    Adam descends from `x`; `c` grows tenfold until the class changes by `kappa`, and is then
    bisected, for every example on its own. Of all points on the way the nearest mistake counts.
    It broke defensive distillation and many later defences, and its distances are the yardstick for
    faster attacks such as `FMN`. At a fixed epsilon, AutoAttack finds more in fewer passes: this
    one spends them on how near a mistake is, not on whether there is one in the ball.

    It minimises the Euclidean norm in every threat model; in `L1` and `Linf` what is too large is
    moved to the nearest point of the ball. Examples that no `c` changes, and those that are wrong
    from the start, stay as they are.

    Deviations from the authors' code: `1000` steps for `10000`; the descent of an example ends when
    its own loss stops falling, theirs when the sum over the batch does, so that no example depends
    on its neighbours; failures come back as the clean example, theirs as a black image; distances
    are to `x`, theirs to what the squeezed tanh makes of it; Adam divides by the corrected moments,
    as in its paper; no last trial of the smallest `c` that worked, which would repeat itself.
    `"least_likely"` and labels left out are additions.

    Cost: up to `search_steps * num_steps` attack passes. An example ends a descent when its loss
    fell by less than 0.01% over a tenth of the steps. 13 forward passes lead back to the boundary.
    BatchNorm statistics see none of it.

    Args:
        num_steps: int >= 1, steps of Adam for one value of `c` at most. Defaults to `1000`.
        search_steps: int >= 1, values of `c`. Defaults to `9`.
        initial_weight: float > 0, the first `c`. Defaults to `0.001`.
        learning_rate: float > 0, of Adam. `w` has no units; without bounds it has those of the
            input. Defaults to `0.01`.
        confidence: float >= 0, `kappa`, by how much the logit of the wrong class must lead.
            Defaults to `0.0`.
        targeted: `False`, away from `y`; `True`, towards `y`; `"least_likely"`, towards the class
            that the model finds least likely at `x`, where any wrong class counts. Defaults to
            `False`.

    Raises:
        ValueError: for arguments out of range, and for a model that is no classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.CarliniWagner(num_steps=200)
    >>> found = attack.run(lambda x: x @ weights + bias, x, y, kr.L2(0.5))
    >>> print(np.round(found.x_adv, 2), np.round(-found.loss, 2))
    [[0.4 0.3]] [0.22]

    References:
        - [Carlini and Wagner, 2017](https://arxiv.org/abs/1608.04644)
        - [Kingma and Ba, 2015](https://arxiv.org/abs/1412.6980)
    """

    def start(self, x, threat_model):
        zero = ops.zeros_like(x)
        if threat_model.bounds is None:
            return _Adam(zero, zero, zero)
        middle, half = _box(threat_model.bounds)
        # What cannot change has no room: any number stands for it.
        room = np.where(np.asarray(half) > 0.0, half, 1.0).astype("float32")
        inside = ops.clip((x - middle) / room, -1.0, 1.0)
        return _Adam(ops.arctanh(_SQUEEZE * inside), zero, zero)

    def step(self, step, memory, problem):
        point, slope = _point(memory.w, problem)
        (hinge, hits), gradient = hinge_gradient(problem, point)
        gradient = per_example(problem.weight, point) * gradient + 2.0 * (point - problem.x)
        return self._adam(step, memory, slope * gradient), point, hinge, hits

    def penalty(self, delta):
        return squared_length(delta)

    def _adam(self, step, memory, gradient):
        count = ops.cast(step, "float32") + 1.0
        mean = _DECAY * memory.mean + (1.0 - _DECAY) * gradient
        square = _SQUARE_DECAY * memory.square + (1.0 - _SQUARE_DECAY) * ops.square(gradient)
        direction = mean / (1.0 - ops.power(_DECAY, count))
        scale = ops.sqrt(square / (1.0 - ops.power(_SQUARE_DECAY, count))) + _TINY
        return _Adam(memory.w - self.learning_rate * direction / scale, mean, square)


def _box(bounds):
    low, high = bounds
    return 0.5 * (low + high), 0.5 * (high - low)


def _point(w, problem):
    """Returns the point that `w` stands for, and its derivative."""
    threat_model = problem.threat_model
    if threat_model.bounds is None:
        return problem.x + w, 1.0
    middle, half = _box(threat_model.bounds)
    # 1 / cosh^2 is 1 - tanh^2 without the loss of digits near the bounds.
    slope = half / ops.square(ops.cosh(w))
    return ops.stop_gradient(threat_model.clip(middle + half * ops.tanh(w))), slope
