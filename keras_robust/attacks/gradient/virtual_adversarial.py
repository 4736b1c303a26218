"""The virtual adversarial perturbation, which needs no labels."""

import math
import numbers

import keras
from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import strongest
from keras_robust.threat_models import L2

_SPHERE = L2(1.0, None)


@keras.saving.register_keras_serializable(package="keras_robust")
class VirtualAdversarial(Attack):
    """Takes one step of length epsilon along the direction in which the prediction changes most.

    `d <- grad_d KL(p(x) || p(x + xi * d / ||d||_2))`, `num_steps` times from a Gaussian `d`, then
    `x_adv = project(x + epsilon * d / ||d||_2)` in `L2`. `Linf` uses the signs of `d`, `L1` its
    largest coordinates. At `x` the gradient of the divergence is zero, so that at `x + xi d` it is
    about `xi` times the Hessian times `d`: the steps are a power iteration, which finds the
    direction of largest curvature. No label is used. `VAT` uses this attack, which is too weak to
    evaluate a model.

    Deviations from the paper: the model runs in inference mode; norms other than `L2` are ours; the
    result is projected into the bounds, but the points at distance `xi` are not. Called on data,
    the attack returns `x_adv` or `x`, whichever is misclassified or has the larger divergence from
    the prediction at `x`; labels count here, or without labels the predictions of the model. Cost:
    `num_steps` attack passes and one forward pass.

    Args:
        num_steps: int >= 1, the number of power iterations. Defaults to `1`, as in the paper.
        xi: float > 0, the Euclidean distance at which the gradient is computed, in the units of the
            input. It must be small against epsilon and large against rounding: 1e-3 in float32,
            where the paper has 1e-6; about 0.1 in float16 and 0.3 in bfloat16, where smaller values
            give a random direction. Defaults to `1e-3`.

    Raises:
        ValueError: if `num_steps` or `xi` is out of range, and for a model that is not a
            classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[3.0, -3.0], [4.0, -4.0]], "float32")
    >>> x = np.array([[0.4, 0.4]], "float32")
    >>> attack = kr.attacks.VirtualAdversarial()
    >>> x_adv = attack(lambda x: x @ weights, x, threat_model=kr.L2(0.1, bounds=None))
    >>> print(np.round(np.abs(x_adv - x), 3))
    [[0.06 0.08]]

    References:
        - [Miyato et al., 2018](https://arxiv.org/abs/1704.03976)
    """

    def __init__(self, *, num_steps=1, xi=1e-3):
        if not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(
                f"Argument `num_steps` must be an int >= 1. Received: num_steps={num_steps!r}"
            )
        if not isinstance(xi, numbers.Real) or not 0.0 < xi < math.inf:
            raise ValueError(f"Argument `xi` must be a positive number. Received: xi={xi!r}")
        self.num_steps = num_steps
        self.xi = xi

    def search(self, problem):
        x, threat_model = problem.x, problem.threat_model
        score = make_attack_loss(problem, "kl", False)

        def body(_, state):
            direction, has_zero_gradient = state
            near = x + self.xi * _SPHERE.steepest_direction(direction)
            _, gradient = backend.value_and_input_gradient(score, near)
            gradient = ops.where(ops.isfinite(gradient), gradient, 0.0)
            return gradient, ops.logical_and(has_zero_gradient, zero_gradient(gradient))

        first = backend.normal(ops.shape(x), problem.seed)
        state = first, ops.ones(ops.shape(x)[:1], dtype="bool")
        direction, has_zero_gradient = backend.repeat(self.num_steps, body, state)
        x_adv = threat_model.step(x, direction, threat_model.radius)
        x_adv = ops.stop_gradient(threat_model.project(x_adv, x))
        if not problem.keep_best:
            return AttackResult.unattacked(x_adv)._replace(zero_gradient=has_zero_gradient)
        clean = self.score_clean(problem, score)
        found = AttackResult.scored(x_adv, score, queries=2 * self.num_steps + 1)
        best = self.leave_mistakes(clean, strongest(clean, found))
        return best._replace(zero_gradient=has_zero_gradient)
