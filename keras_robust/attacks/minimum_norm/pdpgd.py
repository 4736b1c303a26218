"""Primal-dual proximal gradient descent (PDPGD), a minimum-norm attack."""

import math

import keras
import numpy as np
from keras import ops

from keras_robust import threat_models
from keras_robust.attacks.adam import Adam
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.minimum_norm.nearest_visited import nearest_visited
from keras_robust.attacks.minimum_norm.nearest_visited import width_of_box
from keras_robust.attacks.minimum_norm.penalty_attack import WeightedProblem
from keras_robust.attacks.minimum_norm.penalty_attack import hinge_gradient
from keras_robust.attacks.minimum_norm.penalty_attack import make_hinge
from keras_robust.threat_models.hyperplane_step import largest_of
from keras_robust.threat_models.threat_model import per_example

# `v - shrink(v)` is the projection onto the ball of the dual norm (Moreau).
_DUAL = {
    threat_models.L1: threat_models.Linf(bounds=None),
    threat_models.L2: threat_models.L2(bounds=None),
    threat_models.Linf: threat_models.L1(bounds=None),
}
_LAST_STEP, _LAST_DUAL_STEP = 1 / 100, 1 / 10
_FIRST_LOG_RATIO, _LARGEST_LOG_RATIO = -math.log(1e-2), -math.log(1e-6)
_DUAL_DECAY = 0.9
_PROXIMAL_STEPS = 5


@keras.saving.register_keras_serializable(package="keras_robust")
class PDPGD(MinimumNormAttack):
    """Finds the nearest mistake in `L1`, `L2` or `Linf`, by descent in the norm and its weight.

    `min_delta max_lambda lambda_0 ||delta|| + lambda_1 softplus(max(m, 0))`, with the lead
    `m = z_y - max_{j != y} z_j` and the weights `lambda_0 + lambda_1 = 1`. Adam descends the second
    term in `delta` with the step size `s`, and `delta` is clipped to the bounds. Then `delta`
    becomes the `z` that minimizes `lambda_0 / lambda_1 ||z|| + 1/(2 s) (z - delta)^T H (z - delta)`
    where `H` holds the root mean squares of Adam; five steps of proximal descent approximate it.
    The logarithm of `lambda_1 / lambda_0` rises by `t` at a correct point, and falls by `t` at a
    mistake. `s` falls from `step_size` to a hundredth of it, geometrically, and `t` from
    `dual_step_size` to a tenth of it, linearly. The result is the nearest mistake visited.

    One weight for each example adapts during the descent, so that no weight is searched, as it is
    in `EAD` and `CarliniWagner`. Where `zero_gradient` is true, the distance means nothing.

    The settings that are not arguments are those of the adversarial-library of Rony:
    `lambda_0 / lambda_1` starts at 0.01 and stays between 1e-6 and 1e6, and the weights are
    averaged with the factor 0.9. Deviations from it: always five steps of proximal descent, where
    it stops at a small change; step sizes are shares of the width of the box, which is 1 in it; no
    `L0`; the last point is evaluated as well; the nearest mistake is moved back to the boundary.

    Cost: `num_steps` attack passes and 1 forward pass, and 13 more to move the result back to the
    boundary. BatchNorm statistics are not updated.

    Args:
        num_steps: int >= 1, the number of steps. Defaults to `500`.
        step_size: float > 0, the first `s`, as a share of the width of the box, or of 1 without a
            box. Defaults to `0.1`.
        dual_step_size: float > 0, the first `t`. Defaults to `0.1`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`, and any wrong class counts
            as success. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, for a threat model other than `L1`, `L2` and `Linf`,
            and for a model that is not a classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.PDPGD(num_steps=100)
    >>> found = attack.run(lambda x: x @ weights + bias, x, y, kr.L1(0.5))
    >>> print(np.round(found.x_adv, 2), np.round(-found.loss, 2))
    [[0.5  0.25]] [0.25]

    References:
        - [Matyasko and Chau, 2021](https://arxiv.org/abs/2106.01538)
        - [Melchior et al., 2019](https://arxiv.org/abs/1910.10094), the descent in the metric `H`.
    """

    def __init__(self, *, num_steps=500, step_size=0.1, dual_step_size=0.1, targeted=False):
        check_counts(num_steps=num_steps)
        check_numbers(step_size=step_size, dual_step_size=dual_step_size)
        check_choice("targeted", targeted, (True, False, "least_likely"))
        self.num_steps = num_steps
        self.step_size = step_size
        self.dual_step_size = dual_step_size
        self.targeted = targeted

    def nearest(self, problem):
        x, threat_model = problem.x, problem.threat_model
        if type(threat_model) not in _DUAL:
            raise ValueError(
                "PDPGD shortens a change by the norm of the ball, and needs the threat model L1, "
                f"L2 or Linf. Received: {threat_model!r}"
            )
        weighted = WeightedProblem(x, threat_model, None, make_hinge(problem, self.targeted, 0.0))
        width = width_of_box(threat_model)
        done = np.arange(self.num_steps) / self.num_steps
        primal = _tensor(self.step_size * width * _LAST_STEP**done)
        dual = _tensor(self.dual_step_size * np.linspace(1.0, _LAST_DUAL_STEP, self.num_steps))

        def judge(x_adv):
            return hinge_gradient(weighted, x_adv)

        def move(step, visit, memory):
            adam, log_ratio, share = memory
            # The derivative of softplus; at a mistake the hinge is flat already.
            slope = per_example(ops.sigmoid(visit.value), x) * visit.gradient
            adam = adam.add(slope)
            direction, size = adam.direction_and_size()
            rate = ops.take(primal, step)
            moved = threat_model.clip(visit.x_adv - rate * direction / size)
            # `share` is `lambda_1`, the weight of the decision.
            weight = (1.0 - share) / share * rate / width
            moved = _shrunk(moved, x, size, weight, threat_model)
            change = ops.take(dual, step)
            change = ops.where(visit.success, -change, change)
            log_ratio = ops.clip(log_ratio + change, -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
            share = _DUAL_DECAY * share + (1.0 - _DUAL_DECAY) * ops.sigmoid(log_ratio)
            return moved, (adam, log_ratio, share)

        log_ratio = ops.full(ops.shape(x)[:1], _FIRST_LOG_RATIO, dtype="float32")
        memory = (Adam.empty(x), log_ratio, ops.sigmoid(log_ratio))
        return nearest_visited(problem, self.num_steps, judge, move, memory)


def _shrunk(x_adv, x, size, weight, threat_model):
    """Returns `x_adv` with the change made smaller: the proximal step in the metric `size`."""
    dual, largest = _DUAL[type(threat_model)], largest_of(size)
    # In units of the largest entry of the metric, so that the descent converges with steps of 1.
    metric, ball = size / per_example(largest, x), dual.with_radii(weight / largest[:, 0], x)
    delta = shrunk = x_adv - x
    for _ in range(_PROXIMAL_STEPS):
        ahead = shrunk + metric * (delta - shrunk)
        ahead = ahead - ball.project(ahead, ops.zeros_like(ahead))
        shrunk = threat_model.clip(x + ahead) - x
    return threat_model.clip(x + shrunk)


def _tensor(values):
    return ops.convert_to_tensor(values, dtype="float32")
