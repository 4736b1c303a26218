"""The fast gradient sign method."""

import keras

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class FGSM(IterativeAttack):
    """Takes one step of length epsilon along the steepest ascent direction.

    `x_adv = project(x + epsilon * sign(gradient))` in `Linf`. `L2` uses the normalized gradient,
    `L1` its largest coordinates. FGSM is cheap enough for training. Never evaluate a model with it
    alone: it overstates robustness by 8 to 12 points even for models that do not mask gradients.
    With `targeted="least_likely"` it is the one-step attack of Kurakin et al. (2017).

    Deviations from the paper: none. Without labels the predictions of the model are used instead.
    Called on data, the attack returns the best point that it visited, which may be `x`.

    Args:
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x` (Kurakin), so that the
            perturbation does not leak the true label. Defaults to `False`.
        loss: the loss to maximize: `"cross_entropy"`, `"margin"`, `"soft_margin"`,
            `"probability_margin"`, `"dlr"` (at least 3 classes), `"kl"` (divergence from the clean
            prediction; needs a random start), `"compiled"` (the loss of the compiled model, for
            several outputs or regression), or a function `(y, logits) -> (batch_size,)`. With
            `None` the objective chooses: the cross-entropy by default, or the compiled loss for a
            model that is not a classifier. Defaults to `None`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.FGSM()
    >>> print(np.round(attack(lambda x: x @ weights, x, y, kr.threat_models.Linf(0.1)), 3))
    [[0.4 0.4]]

    References:
        - [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6572)
        - [Kurakin et al., 2017](https://arxiv.org/abs/1611.01236)
    """

    def __init__(self, *, targeted=False, loss=None):
        super().__init__(
            num_steps=1,
            step_size=None,
            random_start=False,
            num_restarts=1,
            targeted=targeted,
            loss=loss,
            eot_samples=1,
        )
