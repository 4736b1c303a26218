"""The Carlini and Wagner attack: a minimum-norm attack in `L2`."""

import typing

import keras
import numpy as np
from keras import ops

from keras_robust.attacks.adam import Adam
from keras_robust.attacks.minimum_norm.binary_search import squared_length
from keras_robust.attacks.minimum_norm.penalty_attack import PenaltyAttack
from keras_robust.attacks.minimum_norm.penalty_attack import hinge_gradient
from keras_robust.threat_models.threat_model import per_example

# Keeps the inverse of tanh finite at the bounds.
_SQUEEZE = 0.999999


class _Memory(typing.NamedTuple):
    """The variable `w` and the moments of its gradients."""

    w: object
    adam: object


@keras.saving.register_keras_serializable(package="keras_robust")
class CarliniWagner(PenaltyAttack):
    """Finds the smallest Euclidean perturbation that changes the class, by Adam.

    `min_w ||x' - x||_2^2 + c max(z_y - max_{j != y} z_j + kappa, 0)` with
    `x'(w) = middle + half tanh(w)`, which never leaves the bounds; without bounds `x' = x + w`.
    Adam descends from `x`. For every example separately, `c` grows tenfold until the class changes
    by `kappa`, and is then bisected. The result is the nearest mistake among all points visited.
    The attack broke defensive distillation and many later defenses, and faster attacks such as
    `FMN` are compared with its distances. At a fixed epsilon, AutoAttack breaks more examples in
    fewer passes, because this attack minimizes the distance instead of searching for any mistake in
    the ball.

    It minimizes the Euclidean norm in every threat model. In `L1` and `Linf` a perturbation that is
    too large is projected onto the ball. Examples that no `c` changes, and examples that are
    misclassified from the start, are returned unchanged.

    Deviations from the authors' code: `num_steps` is `1000` instead of `10000`; the descent of an
    example ends when its own loss stops falling, whereas theirs ends when the sum over the batch
    does, so that here no example depends on the others; failures are returned as the clean example,
    theirs as a black image; distances are to `x`, theirs to the image of `x` under the squeezed
    tanh; Adam divides by the corrected moments, as in its paper; there is no last trial of the
    smallest `c` that worked, which would repeat an earlier one. `"least_likely"` and attacks
    without labels are additions.

    Cost: up to `search_steps * num_steps` attack passes. The descent of an example ends when its
    loss falls by less than 0.01% over a tenth of the steps. 13 forward passes move the result back
    to the boundary. BatchNorm statistics are not updated.

    Args:
        num_steps: int >= 1, the maximal number of Adam steps for one value of `c`. Defaults to
            `1000`.
        search_steps: int >= 1, the number of values of `c`. Defaults to `9`.
        initial_weight: float > 0, the first `c`. Defaults to `0.001`.
        learning_rate: float > 0, the learning rate of Adam. It applies to `w`, which has no units,
            or those of the input without bounds. Defaults to `0.01`.
        confidence: float >= 0, `kappa`, the required lead of the wrong class in logits. Defaults to
            `0.0`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`, and any wrong class counts
            as success. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, and for a model that is not a classifier.

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
        if threat_model.bounds is None:
            return _Memory(ops.zeros_like(x), Adam.empty(x))
        middle, half = _box(threat_model.bounds)
        # A feature with equal bounds cannot change; 1 avoids a division by 0.
        room = np.where(np.asarray(half) > 0.0, half, 1.0).astype("float32")
        inside = ops.clip((x - middle) / room, -1.0, 1.0)
        return _Memory(ops.arctanh(_SQUEEZE * inside), Adam.empty(x))

    def step(self, step, memory, problem):
        point, slope = _point(memory.w, problem)
        (hinge, hits), gradient = hinge_gradient(problem, point)
        gradient = per_example(problem.weight, point) * gradient + 2.0 * (point - problem.x)
        adam = memory.adam.add(slope * gradient)
        direction, size = adam.direction_and_size()
        w = memory.w - self.learning_rate * direction / size
        return _Memory(w, adam), point, hinge, hits

    def penalty(self, delta):
        return squared_length(delta)


def _box(bounds):
    low, high = bounds
    return 0.5 * (low + high), 0.5 * (high - low)


def _point(w, problem):
    """Returns the point `x'(w)` and its derivative."""
    threat_model = problem.threat_model
    if threat_model.bounds is None:
        return problem.x + w, 1.0
    middle, half = _box(threat_model.bounds)
    # 1 / cosh^2 equals 1 - tanh^2, but does not lose digits near the bounds.
    slope = half / ops.square(ops.cosh(w))
    return ops.stop_gradient(threat_model.clip(middle + half * ops.tanh(w))), slope
