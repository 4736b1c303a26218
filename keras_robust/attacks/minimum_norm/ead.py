"""The elastic-net attack (EAD): a minimum-norm attack with sparse perturbations."""

import typing

import keras
from keras import ops

from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.minimum_norm.binary_search import squared_length
from keras_robust.attacks.minimum_norm.penalty_attack import PenaltyAttack
from keras_robust.attacks.minimum_norm.penalty_attack import hinge_gradient
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example


class _Points(typing.NamedTuple):
    """The last point, and the extrapolated point where the next gradient is computed."""

    point: object
    ahead: object


@keras.saving.register_keras_serializable(package="keras_robust")
class EAD(PenaltyAttack):
    """Finds a perturbation that is small in `L1`, or in `L1` and `L2` together.

    `min c max(z_y - max_{j != y} z_j + kappa, 0) + ||x' - x||_2^2 + beta ||x' - x||_1` with `x'`
    inside the bounds. FISTA solves it. With `g` the gradient of the first two terms at `y_k`,
    `x_{k+1} = S_beta(y_k - a_k g)`: `S_beta` sets changes below `beta` to 0, shrinks others by
    `beta` and clips to the bounds. Further, `y_{k+1} = x_{k+1} + k / (k + 3) (x_{k+1} - x_k)` and
    `a_k = learning_rate sqrt(1 - k / num_steps)`. The search for the weight `c` is that of
    `CarliniWagner`. Few coordinates change, which defenses trained in `Linf` do not anticipate.
    `FMN` and `FAB` in `L1` find perturbations of similar size in fewer passes.

    The decision rule defines the size by which the mistakes visited are compared:
    `||delta||_2^2 + beta ||delta||_1` (`"EN"`) or `||delta||_1` (`"L1"`). Use the attack with the
    threat model `L1`; in the others, a perturbation that is too large is projected onto the ball.
    Examples that no `c` changes, and examples that are misclassified from the start, are returned
    unchanged.

    Deviations from the authors' code: the descent of an example ends when its own loss stops
    falling, whereas theirs ends when the sum over the batch does; failures are returned as the
    clean example; the first step has no momentum, as in the paper; there is no last trial of the
    smallest `c` that worked.

    Cost: up to `search_steps * num_steps` attack passes and the same number of forward passes,
    which judge `x_{k+1}`. The descent of an example ends when its loss falls by less than 0.01%
    over a tenth of the steps. 13 forward passes move the result back to the boundary. BatchNorm
    statistics are not updated.

    Args:
        num_steps: int >= 1, the maximal number of FISTA steps for one value of `c`. Defaults to
            `1000`.
        search_steps: int >= 1, the number of values of `c`. Defaults to `9`.
        initial_weight: float > 0, the first `c`. Defaults to `0.001`.
        learning_rate: float > 0, `a_0`. Defaults to `0.01`.
        beta: float >= 0, the weight of the `L1` norm, in the units of the input. Defaults to
            `0.01`.
        decision_rule: `"EN"` or `"L1"`. Defaults to `"EN"`.
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
    >>> attack = kr.attacks.EAD(num_steps=200, decision_rule="L1")
    >>> found = attack.run(lambda x: x @ weights + bias, x, y, kr.L1(0.5))
    >>> print(np.round(found.x_adv, 2), np.round(-found.loss, 2))
    [[0.5  0.25]] [0.25]

    References:
        - [Chen et al., 2018](https://arxiv.org/abs/1709.04114)
        - [Beck and Teboulle, 2009](https://doi.org/10.1137/080716542)
    """

    queries_per_step = 3

    def __init__(
        self,
        *,
        num_steps=1000,
        search_steps=9,
        initial_weight=1e-3,
        learning_rate=1e-2,
        beta=1e-2,
        decision_rule="EN",
        confidence=0.0,
        targeted=False,
    ):
        super().__init__(
            num_steps=num_steps,
            search_steps=search_steps,
            initial_weight=initial_weight,
            learning_rate=learning_rate,
            confidence=confidence,
            targeted=targeted,
        )
        check_numbers(or_zero=True, beta=beta)
        check_choice("decision_rule", decision_rule, ("EN", "L1"))
        self.beta = beta
        self.decision_rule = decision_rule

    def start(self, x, threat_model):
        return _Points(x, x)

    def step(self, step, memory, problem):
        x, ahead = problem.x, memory.ahead
        _, gradient = hinge_gradient(problem, ahead)
        gradient = per_example(problem.weight, x) * gradient + 2.0 * (ahead - x)
        number = ops.cast(step, "float32")
        rate = self.learning_rate * ops.sqrt(ops.maximum(1.0 - number / self.num_steps, 0.0))
        delta = ahead - rate * gradient - x
        delta = ops.sign(delta) * ops.maximum(ops.abs(delta) - self.beta, 0.0)
        point = ops.stop_gradient(problem.threat_model.clip(x + delta))
        hinge, hits = problem.hinge(point)
        ahead = point + number / (number + 3.0) * (point - memory.point)
        return _Points(point, ahead), point, hinge, hits

    def penalty(self, delta):
        return squared_length(delta) + self.beta * _sum_of_changes(delta)

    def size(self, delta):
        return self.penalty(delta) if self.decision_rule == "EN" else _sum_of_changes(delta)


def _sum_of_changes(delta):
    return ops.sum(flatten(ops.abs(delta)), axis=-1)
