"""The basic iterative method."""

import keras

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class BIM(IterativeAttack):
    """Takes gradient steps from the clean example: the basic iterative method.

    `x_0 = x`, `x_{k+1} = project(x_k + step_size * sign(gradient))`. With `targeted="least_likely"`
    this is the iterative least-likely class method.

    Deviations from the paper: there `step_size` is one gray level and `num_steps` is
    `min(255 epsilon + 4, 1.25 * 255 epsilon)`; here the step size is `epsilon / num_steps`. Called
    on data, the attack returns the best point that it visited, which may be `x`.

    Args:
        num_steps: int, the number of gradient steps. Defaults to `10`.
        step_size: number or string such as `"2/255"`, in the units of the input. `None` stands for
            `epsilon / num_steps`. Defaults to `None`.
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
    >>> attack = kr.attacks.BIM()
    >>> print(np.round(attack(lambda x: x @ weights, x, y, kr.threat_models.Linf(0.1)), 3))
    [[0.4 0.4]]

    References:
        - [Kurakin et al., 2017](https://arxiv.org/abs/1607.02533)
    """

    def __init__(self, *, num_steps=10, step_size=None, targeted=False, loss=None):
        super().__init__(
            num_steps=num_steps,
            step_size=step_size,
            random_start=False,
            num_restarts=1,
            targeted=targeted,
            loss=loss,
            eot_samples=1,
        )
