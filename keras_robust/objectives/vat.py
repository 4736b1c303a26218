"""Virtual adversarial training, for labeled and unlabeled examples."""

import keras
from keras import ops

from keras_robust.losses import kl_divergence
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class VAT(Objective):
    """Virtual adversarial training: the prediction must not change near any example.

    `L(f(x), y) + weight * mean_i KL(p(x_i) || p(x_adv_i))` with `p = softmax f`. No gradient flows
    through `p(x)`, and `x_adv` comes from `VirtualAdversarial`, which maximizes the divergence and
    needs no label. The method is semi-supervised: it also learns from examples without labels. Its
    adversarial examples come from a single step, so judge its robustness by stronger attacks.

    Examples without a label have the label -1, as in scikit-learn, and the compiled loss must
    ignore them: `keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)` is
    the mean over the labeled examples of a batch, and 0 without any. The divergence is a mean over
    all examples. The metrics of Keras do not support missing labels: `accuracy` counts these
    examples as wrong, so look at `val_accuracy`, and cross-entropy metrics fail. `adv_accuracy`
    ignores them. With labels for all examples, any classification loss works.

    Epsilon is the most important setting, in the norm of the threat model. The authors use `L2`:
    2.5 to 3.5 on SVHN, and 8 to 10 on whitened CIFAR-10, both without bounds. An attack other than
    the default one uses the predicted class as label.

    Deviations from the authors' code: BatchNorm statistics see one clean and one adversarial pass,
    where theirs omit the adversarial one; the attack runs in inference mode; `x_adv` is projected
    into the bounds. Cost: two training passes and the passes of the attack, by default one attack
    pass and one forward pass.

    Args:
        weight: float, the weight of the divergence, or a `LearningRateSchedule` over optimizer
            steps. Defaults to `1.0`, the authors' value.

    Raises:
        ValueError: if `weight` is negative, and in `fit` for a model that is not a classifier, and
            for labels of -1 with a loss that does not ignore them.

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
        # Pass no labels, because some examples have none.
        return attack.perturb(classifier, batch.x, None, batch.threat_model, batch.seed)

    def loss(self, clean, adversarial):
        supervised = clean.loss
        divergence = kl_divergence(ops.stop_gradient(clean.logits), adversarial.logits)
        return supervised + at(self.weight, clean) * clean.mean(divergence)
