"""The momentum iterative method (MI-FGSM)."""

import keras
from keras import ops

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class MomentumPGD(IterativeAttack):
    """Takes steps along an accumulated gradient: MI-FGSM.

    `g <- decay * g + gradient / ||gradient||_1`, `x <- project(x + step_size * sign(g))`, with the
    norm computed per example. The perturbations transfer to other models better than those of
    `PGD`.

    Deviations from the paper: none; `random_start` and restarts are additions, off by default.
    Called on data, the attack returns the best point that it visited, which may be `x`.

    Args:
        num_steps: int, the number of gradient steps. Defaults to `10`.
        step_size: number or string such as `"2/255"`, in the units of the input. `None` stands for
            `epsilon / num_steps`. Defaults to `None`.
        decay: float >= 0, the factor of the old direction, `mu` in the paper. Defaults to `1.0`.
        random_start: `True` starts at a random point of the ball; `False` starts at `x`;
            `"gaussian"` starts at `x + 0.001 * normal` (TRADES). Defaults to `False`.
        num_restarts: int, the number of independent searches. Each example keeps its best result: a
            misclassified point if there is one, otherwise the point with the highest loss. Defaults
            to `1`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x` (Kurakin), so that the
            perturbation does not leak the true label. Defaults to `False`.
        loss: the loss to maximize: `"cross_entropy"`, `"margin"`, `"soft_margin"`,
            `"probability_margin"`, `"dlr"` (at least 3 classes), `"kl"` (divergence from the clean
            prediction; needs a random start), `"compiled"` (the loss of the compiled model, for
            several outputs or regression), or a function `(y, logits) -> (batch_size,)`. With
            `None` the objective chooses: the cross-entropy by default, or the compiled loss for a
            model that is not a classifier. Defaults to `None`.
        eot_samples: int, the number of passes over which the gradient is averaged (expectation over
            transformation). Use more than one for models with random layers. Defaults to `1`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.MomentumPGD()
    >>> print(np.round(attack(lambda x: x @ weights, x, y, kr.threat_models.Linf(0.1)), 3))
    [[0.4 0.4]]

    References:
        - [Dong et al., 2018](https://arxiv.org/abs/1710.06081)
    """

    def __init__(
        self,
        *,
        num_steps=10,
        step_size=None,
        decay=1.0,
        random_start=False,
        num_restarts=1,
        targeted=False,
        loss=None,
        eot_samples=1,
    ):
        super().__init__(
            num_steps=num_steps,
            step_size=step_size,
            random_start=random_start,
            num_restarts=num_restarts,
            targeted=targeted,
            loss=loss,
            eot_samples=eot_samples,
        )
        if not decay >= 0.0:
            raise ValueError(f"Argument `decay` must not be negative. Received: decay={decay!r}")
        self.decay = decay

    def memory(self, x):
        return ops.zeros_like(x)

    def direction(self, gradient, memory):
        axes = tuple(range(1, len(gradient.shape)))
        norm = ops.sum(ops.abs(gradient), axis=axes, keepdims=True)
        ascent = self.decay * memory + gradient / ops.where(norm > 0.0, norm, 1.0)
        return ascent, ascent
