"""Adversarial training: the loss on adversarial examples only."""

import keras

from keras_robust.objectives.objective import Objective


@keras.saving.register_keras_serializable(package="keras_robust")
class Adversarial(Objective):
    """The compiled loss on adversarial examples only.

    `min_theta E max_{x_adv} L(f(x_adv), y)`: the min-max problem of Madry et al. (2018). This
    objective is the most robust of the plain ones for its cost. Use `TRADES` to trade clean
    accuracy for robust accuracy.

    Deviations from the authors' code: the attack sees the model in inference mode, without Dropout
    and without updates of BatchNorm. BatchNorm statistics therefore see one pass over the
    adversarial batch per step.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.objectives.get("adversarial"))
    Adversarial()

    References:
        - [Madry et al., 2018](https://arxiv.org/abs/1706.06083)
    """

    def loss(self, clean, adversarial):
        return adversarial.loss
