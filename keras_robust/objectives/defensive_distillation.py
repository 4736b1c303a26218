"""Defensive distillation: the second training. A defence that does not hold."""

import keras

from keras_robust.attacks import AttackResult
from keras_robust.losses import check_temperature
from keras_robust.objectives.distillation import Distillation


@keras.saving.register_keras_serializable(package="keras_robust")
class DefensiveDistillation(Distillation):
    """Defensive distillation: learns the soft labels of a teacher, without any attack.

    `T^2 KL(softmax(t(x) / T) || softmax(z(x) / T))`, with `t` the logits of the teacher and `z`
    those of the model, which is then used at temperature 1. The teacher is a model of the same
    architecture, trained on the labels at the same temperature: compile it with
    `keras_robust.losses.TemperatureCrossEntropy(T)`. Labels are not used, and may be -1.

    **It does not resist attacks**, and is provided for comparison and to put an evaluation to the
    test. To be sure of themselves at temperature `T` both models need logits `T` times as large as
    usual. Used at temperature 1, the softmax is saturated: in float32 the probability of the class
    is 1, and the gradient of the cross-entropy is 0 or lost in rounding. Attacks on it find
    nothing; attacks on the logits, such as the margin loss, succeed on every example (Carlini and
    Wagner, 2016 and 2017). `keras_robust.evaluate` runs both and reports the worst.

    Deviations from the paper: the divergence in place of the cross-entropy with soft labels, which
    differ by a constant, and the factor `T^2` of Hinton et al. (2015), which multiplies the
    gradient; soft labels are computed batch by batch, so that augmentation works.

    The loss is that of `keras.distillation.LogitsDistillation(T, keras.losses.KLDivergence())`, per
    example, so that sample weights count, and without its clipped probabilities. (With its default,
    the name `"kl_divergence"`, Keras 3.15 compares the logits themselves.) A
    `keras.distillation.Distiller` with `student_loss_weight=0` takes the same steps on a model that
    has no regularisers, but leaves out sample weights and regularisers, freezes the teacher for
    good, takes the outputs of a softmax for logits, and keeps the teacher in its checkpoints.

    Cost: one training pass, one forward pass of the teacher. BatchNorm statistics see one clean
    pass.

    Args:
        teacher: a trained `keras.Model`, which never changes. `get_config` holds its architecture,
            not its weights.
        temperature: float above 0, `T`: up to `100` in the paper. Defaults to `20.0`.

    Raises:
        ValueError: for a teacher that is no model, and in `fit` for one that is no classifier, has
            other classes, has not been built, or shares weights with the model.

    Example:

    >>> import keras
    >>> import keras_robust as kr
    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> print(kr.objectives.DefensiveDistillation(teacher).temperature)
    20.0

    References:
        - [Papernot et al., 2016](https://arxiv.org/abs/1511.04508)
        - [Carlini and Wagner, 2016](https://arxiv.org/abs/1607.04311)
        - [Carlini and Wagner, 2017](https://arxiv.org/abs/1608.04644)
    """

    runs_attack = False
    takes_unlabelled = True

    def __init__(self, teacher, temperature=20.0):
        super().__init__(teacher)
        self.temperature = check_temperature(temperature)

    def perturb(self, attack, classifier, batch):
        return AttackResult.unattacked(batch.x)

    def loss(self, clean, adversarial):
        teacher = self.teacher_logits(clean.classifier, clean.x)
        distance = self.soft_targets(clean.classifier, teacher, clean.logits, self.temperature)
        return clean.mean(distance) + clean.regularisation
