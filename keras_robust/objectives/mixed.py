"""Training on a mix of clean and adversarial examples."""

import keras

from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class Mixed(Objective):
    """A weighted mean of the compiled loss on clean and on adversarial examples.

    `alpha * L(f(x), y) + (1 - alpha) * L(f(x_adv), y)`. Szegedy et al. (2014) mixed adversarial
    examples into the training data. Goodfellow et al. (2015) computed new ones at every step, with
    `FGSM` and `alpha = 0.5`. With a one-step attack the model resists one-step attacks only.

    Deviations from the papers: none. No gradient flows through the attack that makes `x_adv`.
    BatchNorm statistics see one clean and one adversarial pass per step.

    Args:
        alpha: float from 0 to 1 or a `LearningRateSchedule` over optimizer steps, the weight of
            the clean loss. Defaults to `0.5`.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.objectives.Mixed(alpha=0.3))
    Mixed(alpha=0.3)

    References:
        - [Szegedy et al., 2014](https://arxiv.org/abs/1312.6199)
        - [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6572)
    """

    def __init__(self, alpha=0.5):
        self.alpha = check_weight("alpha", alpha, maximum=1.0)

    def loss(self, clean, adversarial):
        alpha = at(self.alpha, clean)
        return alpha * clean.loss + (1.0 - alpha) * adversarial.loss
