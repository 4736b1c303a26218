"""Plain training: the loss on clean examples only."""

import keras

from keras_robust.attacks import AttackResult
from keras_robust.objectives.objective import Objective


@keras.saving.register_keras_serializable(package="keras_robust")
class Clean(Objective):
    """The compiled loss on clean examples only: `L(f(x), y)`, the loss of plain `fit`.

    No attack runs. Use it as the base of regularizers that need no attack, and for the undefended
    model of a comparison. Cost: one plain step. BatchNorm statistics see one clean pass.

    Deviations: none.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.AdvTrain(objective="clean").objective)
    Clean()
    """

    runs_attack = False

    def perturb(self, attack, classifier, batch):
        return AttackResult.unattacked(batch.x)

    def loss(self, clean, adversarial):
        return clean.loss
