"""Adversarially robust distillation."""

import keras

from keras_robust.losses import check_temperature
from keras_robust.objectives.distillation import Distillation
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class ARD(Distillation):
    """Adversarially robust distillation (ARD): the student on `x_adv` matches the teacher on `x`.

    `alpha T^2 KL(softmax(t(x) / T) || softmax(z(x_adv) / T)) + (1 - alpha) L(f(x), y)`, with `t`
    the logits of the teacher, `z` the logits of the model, and `L` the compiled loss. The attack
    finds `x_adv` on the model, by default PGD on the cross-entropy. Use it for models that are too
    small to become robust without a teacher: in the paper, students of a large robust teacher are
    more robust than models after adversarial training. The student of a teacher that is not robust
    is not robust either.

    Deviations from the authors' code: the divergence is a sum over classes, where theirs is a mean
    over examples and classes and thus smaller by the number of classes. The attack sees the model
    in inference mode and uses its own step size, where theirs is 2/255 for epsilon 8/255. With
    `alpha=1` there is no clean pass in training mode, where they make one for the BatchNorm
    statistics alone.

    Cost: the passes of the attack, one training pass, a second one unless `alpha` is 1, and one
    forward pass of the teacher. BatchNorm statistics see the adversarial pass, and before it the
    clean pass unless `alpha` is 1.

    Args:
        teacher: a trained robust `keras.Model`, which never changes. `get_config` contains its
            architecture, but not its weights.
        temperature: float above 0, `T`. Defaults to `30.0`.
        alpha: float from 0 to 1, the weight of the teacher, or a `LearningRateSchedule` over
            optimizer steps. Defaults to `1.0`, with which only the attack uses labels.

    Raises:
        ValueError: for a teacher that is not a `keras.Model`, and in `fit` for a teacher that is
            not a classifier, has other classes, is not built, or shares weights with the model.

    Example:

    >>> import keras
    >>> import keras_robust as kr
    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> print(kr.objectives.ARD(teacher, alpha=0.9).alpha)
    0.9

    References:
        - [Goldblum et al., 2020](https://arxiv.org/abs/1905.09747)
    """

    def __init__(self, teacher, temperature=30.0, alpha=1.0):
        super().__init__(teacher)
        self.temperature = check_temperature(temperature)
        self.alpha = check_weight("alpha", alpha, 1.0)

    def loss(self, clean, adversarial):
        alpha = at(self.alpha, clean)
        # Skip a clean pass of weight 0, which would still cost a training pass.
        supervised = 0.0 if self.alpha == 1.0 else (1.0 - alpha) * clean.loss
        classifier, temperature = clean.classifier, self.temperature
        teacher = self.teacher_logits(classifier, clean.x)
        distance = self.soft_targets(classifier, teacher, adversarial.logits, temperature)
        # The compiled loss contains the other share of the regularizers.
        return supervised + alpha * (adversarial.mean(distance) + adversarial.regularisation)
