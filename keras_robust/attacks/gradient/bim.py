"""The basic iterative method."""

import keras

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class BIM(IterativeAttack):
    """Gradient steps from the clean example: the basic iterative method.

    `x_0 = x`, `x_{k+1} = project(x_k + step_size * sign(gradient))`. With
    `targeted="least_likely"` it is the iterative least-likely class method.

    Deviations from the paper: there `step_size` is one grey level and `num_steps` is
    `min(255 epsilon + 4, 1.25 * 255 epsilon)`; here the step is `epsilon / num_steps`. Called on
    data, it returns the best point that it met, which may be `x`.

    Args:
        num_steps: int, gradient steps. Defaults to `10`.
        step_size: number or string such as `"2/255"`, in the units of the input; `None` for
            `epsilon / num_steps`. Defaults to `None`.
        targeted: `False`, away from `y`; `True`, towards `y`; `"least_likely"`, towards the class
            that the model finds least likely at `x` (Kurakin), which keeps the true label out of
            the perturbation. Defaults to `False`.
        loss: what is maximised: `"cross_entropy"`, `"margin"`, `"soft_margin"`, `"dlr"` (3 classes
            or more), `"kl"` (divergence from the clean prediction; needs a random start),
            `"compiled"` (the loss of the compiled model, for several outputs or regression), or a
            function `(y, logits) -> (batch_size,)`. `None` leaves the choice to the objective: the
            cross-entropy, or the compiled loss of a model that is no classifier. Defaults to
            `None`.

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
