"""Elastic net: a small perturbation of few coordinates."""

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
    """The last point, and the one beyond it at which the next gradient is taken."""

    point: object
    ahead: object


@keras.saving.register_keras_serializable(package="keras_robust")
class EAD(PenaltyAttack):
    """Elastic-net attack: a perturbation that is small in `L1`, or in `L1` and `L2` together.

    `min c max(z_y - max_{j != y} z_j + kappa, 0) + ||x' - x||_2^2 + beta ||x' - x||_1` with `x'`
    inside the bounds, by FISTA: with `g` the gradient of the first two terms at `y_k`,
    `x_{k+1} = S_beta(y_k - a_k g)`, which sets changes below `beta` to 0, makes others smaller by
    `beta` and clips to the bounds; `y_{k+1} = x_{k+1} + k / (k + 3) (x_{k+1} - x_k)` and
    `a_k = learning_rate sqrt(1 - k / num_steps)`. The weight `c` is searched as in `CarliniWagner`.
    Few coordinates change, which defences trained in `Linf` do not expect. `FMN` and `FAB` in `L1`
    find perturbations as small in fewer passes.

    The decision rule says which of the mistakes on the way is the smallest: by
    `||delta||_2^2 + beta ||delta||_1` (`"EN"`) or by `||delta||_1` (`"L1"`). Use it with the threat
    model `L1`; in the others, what is too large is moved to the nearest point of the ball. Examples
    that no `c` changes, and those that are wrong from the start, stay as they are.

    Deviations from the authors' code: the descent of an example ends when its own loss stops
    falling, theirs when the sum over the batch does; failures come back as the clean example; the
    first step has no momentum, as in the paper; no last trial of the smallest `c` that worked.

    Cost: up to `search_steps * num_steps` attack passes and as many forward passes, which judge
    `x_{k+1}`. An example ends a descent when its loss fell by less than 0.01% over a tenth of the
    steps. 13 forward passes lead back to the boundary. BatchNorm statistics see none of it.

    Args:
        num_steps: int >= 1, steps of FISTA for one value of `c` at most. Defaults to `1000`.
        search_steps: int >= 1, values of `c`. Defaults to `9`.
        initial_weight: float > 0, the first `c`. Defaults to `0.001`.
        learning_rate: float > 0, `a_0`. Defaults to `0.01`.
        beta: float >= 0, in the units of the input. Defaults to `0.01`.
        decision_rule: `"EN"` or `"L1"`. Defaults to `"EN"`.
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
