"""FGSM-RS: FGSM from a random point of the ball, for fast adversarial training."""

import keras

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class RandomStartFGSM(IterativeAttack):
    """Takes one gradient step from a random point of the ball: FGSM-RS, the attack of Fast AT.

    `x_0` is uniform in the ball, and `x_adv = project(x_0 + step_size * sign(gradient at x_0))` in
    `Linf`. `L2` uses the normalized gradient, `L1` its largest coordinates. The attack makes
    training cheap, because it costs one attack pass. Never evaluate a model with it.

    The authors train on CIFAR-10 at 8/255 for 15 epochs, with a learning rate of SGD that rises
    from 0 to 0.2 and falls back. They reach 83.3% clean accuracy, 46.1% under PGD-50 with 10
    restarts and 43.2% under AutoAttack. On MNIST at 0.3, 10 epochs of Adam reach 98.5%, 88.8% and
    82.9%.

    Catastrophic overfitting: from one epoch to the next, the accuracy under PGD may fall to 0%
    while the accuracy under the training attack rises to 100%. On CIFAR-10 it begins at an epsilon
    of 7/255 to 8/255 for `FGSM`, and of 9/255 to 10/255 for this attack. Longer training makes it
    more likely. Watch `RobustValidation` with `PGD` and keep the best epoch, or use `NFGSM`.

    Deviations from the authors' code: the gradient is computed in inference mode, whereas they
    compute it in training mode. The start is clipped to the bounds on MNIST, too. Called on data,
    the attack returns the best point that it visited, which may be `x`.

    Args:
        step_size: number or string such as `"10/255"`, in the units of the input. `None` stands for
            `1.25 * epsilon`, the authors' choice for CIFAR-10 and MNIST. Defaults to `None`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`. Defaults to `False`.
        loss: the loss to maximize, as in `PGD`. Defaults to `None`: the objective chooses, which
            means the cross-entropy by default, or the compiled loss for a model that is not a
            classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.RandomStartFGSM(step_size=0.2)
    >>> print(np.round(attack(lambda x: x @ weights, x, y, kr.threat_models.Linf(0.1)), 3))
    [[0.4 0.4]]

    References:
        - [Wong et al., 2020](https://arxiv.org/abs/2001.03994)
    """

    relative_step = 1.25

    def __init__(self, *, step_size=None, targeted=False, loss=None):
        super().__init__(
            num_steps=1,
            step_size=step_size,
            random_start=True,
            num_restarts=1,
            targeted=targeted,
            loss=loss,
            eot_samples=1,
        )
