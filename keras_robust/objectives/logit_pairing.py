"""Adversarial logit pairing."""

import keras

from keras_robust.losses import logit_distance
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class LogitPairing(Objective):
    """Adversarial logit pairing (ALP): equal logits for an example and its adversarial example.

    `(L(f(x), y) + L(f(x_adv), y)) / 2 + weight * mean_i mean_j (z_ij - z_adv_ij)^2`.

    Kannan et al. (2018) claimed 27.9% on ImageNet under a 16/255 attack. Engstrom et al. (2018)
    reduced it to 0.1% with more steps of the same attack. On MNIST under the strongest attacks,
    pairing changed the accuracy after training on half adversarial batches from 88.2% to 89.9%, and
    after training on adversarial batches only from 88.0% to 85.7% (Mosbach et al., 2018). Use it as
    a regularizer on top of a strong attack, and judge it by `evaluate`, never by the training
    attack.

    Deviations from the authors' code: none in the loss (gradients flow through both branches, and
    the distance is a mean over classes). Use Keras for label smoothing and weight averaging.

    Args:
        weight: float or a `LearningRateSchedule`, the weight of the pairing term. Defaults to
            `0.5`.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.objectives.LogitPairing())
    LogitPairing(weight=0.5)

    References:
        - [Kannan et al., 2018](https://arxiv.org/abs/1803.06373)
        - [Engstrom et al., 2018](https://arxiv.org/abs/1807.10272)
        - [Mosbach et al., 2018](https://arxiv.org/abs/1810.12042)
    """

    def __init__(self, weight=0.5):
        self.weight = check_weight("weight", weight)

    def loss(self, clean, adversarial):
        supervised = 0.5 * clean.loss + 0.5 * adversarial.loss
        distance = logit_distance(clean.logits, adversarial.logits)
        return supervised + at(self.weight, clean) * clean.mean(distance)
