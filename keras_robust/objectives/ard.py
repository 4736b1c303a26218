"""Adversarially robust distillation: a robust teacher, seen through adversarial examples."""

import keras

from keras_robust.losses import check_temperature
from keras_robust.objectives.distillation import Distillation
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class ARD(Distillation):
    """Adversarially robust distillation (ARD): on `x_adv`, say what the teacher says on `x`.

    `alpha T^2 KL(softmax(t(x) / T) || softmax(z(x_adv) / T)) + (1 - alpha) L(f(x), y)`, with `t`
    the logits of the teacher, `z` those of the model, `L` the compiled loss, and `x_adv` what the
    attack finds on the model, by default PGD on the cross-entropy. For models that are too small to
    become robust by themselves: in the paper, those with a large robust teacher are more robust
    than those of adversarial training. A teacher that is not robust makes a student that is not.

    Deviations from the authors' code: the divergence is summed over the classes, where they take
    the mean over examples and classes, which is smaller by the number of classes; the attack sees
    the model in inference mode, and its own step size is used, where they take 2/255 for epsilon
    8/255; with `alpha=1` there is no clean pass in training mode, where they make one for the
    BatchNorm statistics alone.

    Cost: the passes of the attack, one training pass, a second one unless `alpha` is 1, one forward
    pass of the teacher. BatchNorm statistics see the adversarial pass, and unless `alpha` is 1 the
    clean pass before it.

    Args:
        teacher: a trained robust `keras.Model`, which never changes. `get_config` holds its
            architecture, not its weights.
        temperature: float above 0, `T`. Defaults to `30.0`.
        alpha: float from 0 to 1, the weight of the teacher, or a `LearningRateSchedule` over
            optimizer steps. Defaults to `1.0`: labels are used by the attack alone.

    Raises:
        ValueError: for a teacher that is no model, and in `fit` for one that is no classifier, has
            other classes, has not been built, or shares weights with the model.

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
        # A clean pass of weight 0 would still cost a training pass.
        supervised = 0.0 if self.alpha == 1.0 else (1.0 - alpha) * clean.loss
        classifier, temperature = clean.classifier, self.temperature
        teacher = self.teacher_logits(classifier, clean.x)
        distance = self.soft_targets(classifier, teacher, adversarial.logits, temperature)
        # The compiled loss brings its share of the regularisers.
        return supervised + alpha * (adversarial.mean(distance) + adversarial.regularisation)
