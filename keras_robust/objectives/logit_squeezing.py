"""Logit squeezing."""

import keras
from keras import ops

from keras_robust.attacks import AttackResult
from keras_robust.objectives.noise import with_noise
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight

_TINY = 1e-12


@keras.saving.register_keras_serializable(package="keras_robust")
class LogitSqueezing(Objective):
    """Logit squeezing (LSQ): small logits for noisy clean examples.

    `L(f(x + n), y) + weight * mean_i ||z_i||_2` with Gaussian noise `n` and the logits `z_i` of the
    noisy example; the norm is not squared. No attack runs, and the other arguments of `AdvTrain`
    are not used.

    It masks gradients and does not resist attacks: the accuracy under PGD-40 and under the
    strongest attacks is 70.6% and 5.0% on MNIST at 0.3, and 27.0% and 1.7% on CIFAR-10 at 16/255
    (Mosbach et al., 2018). Use it for comparison only.

    Deviations from the paper: the noisy input is clipped to the bounds, and a single logit `z`
    counts as the two logits `(0, z)`. Cost: one training pass. BatchNorm statistics see one pass
    over the noisy examples.

    Args:
        weight: float, the weight of the norm, or a `LearningRateSchedule` over optimizer steps. The
            paper uses `0.05`. The code of Mosbach et al. uses `0.5`, with which the logits of small
            networks may stay at zero. Defaults to `0.05`.
        noise_stddev: float, the standard deviation of the noise, in the units of the input.
            Defaults to `0.5`, for MNIST.

    Raises:
        ValueError: if `weight` or `noise_stddev` is negative, and in `fit` for a model that is no
            classifier.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.objectives.LogitSqueezing())
    LogitSqueezing(weight=0.05, noise_stddev=0.5)

    References:
        - [Kannan et al., 2018](https://arxiv.org/abs/1803.06373)
        - [Mosbach et al., 2018](https://arxiv.org/abs/1810.12042)
    """

    runs_attack = False

    def __init__(self, weight=0.05, noise_stddev=0.5):
        self.weight = check_weight("weight", weight)
        self.noise_stddev = check_weight("noise_stddev", noise_stddev)

    def perturb(self, attack, classifier, batch):
        return AttackResult.unattacked(with_noise(batch, self.noise_stddev))

    def loss(self, clean, adversarial):
        loss = adversarial.loss
        squares = ops.sum(ops.square(adversarial.logits), axis=-1)
        # The root has no gradient at 0, and a head that is initialized to zero returns logits of 0.
        norm = ops.sqrt(ops.maximum(squares, _TINY))
        return loss + at(self.weight, adversarial) * adversarial.mean(norm)
