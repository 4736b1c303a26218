"""Defensive distillation, a defense that is broken."""

import keras

from keras_robust.attacks import AttackResult
from keras_robust.losses import check_temperature
from keras_robust.objectives.distillation import Distillation


@keras.saving.register_keras_serializable(package="keras_robust")
class DefensiveDistillation(Distillation):
    """Defensive distillation: learns the soft labels of a teacher, without any attack.

    `T^2 KL(softmax(t(x) / T) || softmax(z(x) / T))`, with `t` the logits of the teacher and `z` the
    logits of the model, which is then used at temperature 1. The teacher is a model of the same
    architecture, trained on the labels at the same temperature: compile it with
    `keras_robust.losses.TemperatureCrossEntropy(T)`. Labels are not used, and may be -1.

    **It does not resist attacks.** Use it for comparison and to test an evaluation. For confident
    predictions at temperature `T` both models need logits `T` times as large as usual. At
    temperature 1 the softmax is then saturated: in float32 the probability of the predicted class
    is 1, and the gradient of the cross-entropy is 0 or lost in rounding. Attacks on the
    cross-entropy find nothing, but attacks on the logits, for example with the margin loss, succeed
    on every example (Carlini and Wagner, 2016 and 2017). `keras_robust.evaluate` runs both and
    reports the worst case.

    Deviations from the paper: the divergence replaces the cross-entropy with soft labels, from
    which it differs by a constant, and the factor `T^2` of Hinton et al. (2015) multiplies the
    gradient. Soft labels are computed for each batch, so that augmentation works.

    The loss is `keras.distillation.LogitsDistillation(T, keras.losses.KLDivergence())` per example,
    so that sample weights count, and without clipped probabilities. (With its default, the name
    `"kl_divergence"`, Keras 3.15 compares the logits themselves.) A `keras.distillation.Distiller`
    with `student_loss_weight=0` takes the same steps on a model without regularizers. But it
    ignores sample weights and regularizers, freezes the teacher permanently, treats the outputs of
    a softmax as logits, and saves the teacher in its checkpoints.

    Cost: one training pass, and one forward pass of the teacher. BatchNorm statistics see one clean
    pass.

    Args:
        teacher: a trained `keras.Model`, which never changes. `get_config` contains its
            architecture, but not its weights.
        temperature: float above 0, `T`. The paper uses up to `100`. Defaults to `20.0`.

    Raises:
        ValueError: for a teacher that is not a `keras.Model`, and in `fit` for a teacher that is
            not a classifier, has other classes, is not built, or shares weights with the model.

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
        # The compiled loss would contain the regularizers, but this loss does not use it.
        return clean.mean(distance) + clean.regularisation
