"""FGSM from a random point of the ball: the attack of fast adversarial training."""

import keras

from keras_robust.attacks.gradient.iterative_attack import IterativeAttack


@keras.saving.register_keras_serializable(package="keras_robust")
class RandomStartFGSM(IterativeAttack):
    """One gradient step from a random point of the ball: FGSM-RS, the attack of Fast AT.

    `x_0` uniform in the ball, `x_adv = project(x_0 + step_size * sign(gradient at x_0))` in `Linf`;
    the normalised gradient in `L2`, the largest coordinates in `L1`. For training at the price of
    one attack pass; never judge a model by it.

    The authors train CIFAR-10 at 8/255 for 15 epochs with the learning rate of SGD going from 0 to
    0.2 and back: 83.3% clean, 46.1% under PGD-50 with 10 restarts, 43.2% under AutoAttack. MNIST at
    0.3, 10 epochs of Adam: 98.5%, 88.8% and 82.9%.

    Catastrophic overfitting: from one epoch to the next, accuracy under PGD may fall to 0% while
    that under the training attack rises to 100%. On CIFAR-10 it strikes `FGSM` at 7/255 to 8/255
    and this attack beyond 9/255 to 10/255, and the more likely the longer the training is. Watch
    `RobustValidation` with `PGD` and keep the best epoch, or use `NFGSM`.

    Deviations from the authors' code: the gradient is taken in inference mode, where they take it
    in training mode. On MNIST too the start is clipped to the bounds. Called on data, it returns
    the best point that it met, which may be `x`.

    Args:
        step_size: number or string such as `"10/255"`, in the units of the input; `None` for
            `1.25 * epsilon`, the choice for CIFAR-10 and MNIST. Defaults to `None`.
        targeted: `False`, away from `y`; `True`, towards `y`; `"least_likely"`, towards the class
            that the model finds least likely at `x`. Defaults to `False`.
        loss: what is maximised, as in `PGD`. Defaults to `None`, which leaves it to the objective:
            the cross-entropy, or the compiled loss of a model that is no classifier.

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
