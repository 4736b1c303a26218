"""Virtual adversarial training: smoothness without labels."""

import keras
from keras import ops

from keras_robust.losses import kl_divergence
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class VAT(Objective):
    """Virtual adversarial training: the prediction must not change around any example.

    `L(f(x), y) + weight * mean_i KL(p(x_i) || p(x_adv_i))` with `p = softmax f`, `p(x)` held fixed,
    and `x_adv` from `VirtualAdversarial`, which follows the divergence and no label. So it learns
    from examples without labels as well: a method of semi-supervised learning. Its own examples
    come from a single step: judge its robustness by stronger attacks.

    Examples without a label have the label -1, as in scikit-learn, and the loss must leave them
    out: `keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)`, which is
    the mean over the examples of the batch that have a label, and 0 where none has. The divergence
    is the mean over all. Keras's own metrics know no missing labels: its `accuracy` counts these
    examples as wrong, which leaves `val_accuracy` as the one to look at, and its cross-entropy
    metrics fail. `adv_accuracy` leaves them out. On fully labelled data any classification loss
    will do.

    Epsilon matters most, in the norm of the threat model. The authors take `L2`: 2.5 to 3.5 on
    SVHN, 8 to 10 on whitened CIFAR-10, both without a box. With another attack than the default one
    the class that the model predicts stands for the label.

    Deviations from the authors' code: BatchNorm statistics see one clean and one adversarial pass,
    where theirs leave the adversarial one out; the attack runs in inference mode; `x_adv` is
    projected into the bounds. Cost: two training passes and those of the attack, by default
    one attack pass and one forward pass.

    Args:
        weight: float, the weight of the divergence, or a `LearningRateSchedule` over optimizer
            steps. Defaults to `1.0`, the authors' value.

    Raises:
        ValueError: if `weight` is negative, and in `fit` for a model that is no classifier, and for
            labels of -1 under a loss that does not leave them out.

    Example:

    >>> import keras_robust as kr
    >>> train = kr.AdvTrain(kr.L2(2.5, bounds=None), objective="vat")
    >>> print(train.objective, train.attack)
    VAT(weight=1.0) VirtualAdversarial(num_steps=1, xi=0.001)

    References:
        - [Miyato et al., 2018](https://arxiv.org/abs/1704.03976)
    """

    default_attack = "virtualadversarial"
    takes_unlabelled = "if_ignored"

    def __init__(self, weight=1.0):
        self.weight = check_weight("weight", weight)

    def perturb(self, attack, classifier, batch):
        return attack.perturb(classifier, batch.x, None, batch.threat_model, batch.seed)

    def loss(self, clean, adversarial):
        supervised = clean.loss
        divergence = kl_divergence(ops.stop_gradient(clean.logits), adversarial.logits)
        return supervised + at(self.weight, clean) * clean.mean(divergence)
