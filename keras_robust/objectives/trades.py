"""TRADES: a trade-off between clean and robust accuracy."""

import keras

from keras_robust.losses import kl_divergence
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class TRADES(Objective):
    """The compiled loss on clean examples plus the divergence of their adversarial examples.

    `L(f(x), y) + beta * mean_i KL(softmax f(x_i) || softmax f(x_adv_i))`. `x_adv` maximizes the
    same divergence from a small Gaussian start `x + 0.001 * normal`, because the divergence has no
    gradient at `x`. An attack with `loss=None` gets this loss and start. An attack with its own
    loss is used unchanged.

    Deviations from the authors' code: one clean pass per step, where they make two. The attack uses
    its own step size, where theirs is 0.007 for epsilon 0.031 and 0.01 for 0.3. Like in their code,
    gradients also flow through the clean branch.

    Cost: two training passes, the passes of the attack, and a forward pass at `x`. BatchNorm
    statistics see one clean and one adversarial pass.

    Args:
        beta: float, the weight of the divergence, or a `LearningRateSchedule` over optimizer steps.
            It is `1 / lambda` in the paper, which uses `1` for MNIST and `6` for CIFAR-10. Defaults
            to `6.0`.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.objectives.TRADES(beta=1.0))
    TRADES(beta=1.0)

    References:
        - [Zhang et al., 2019](https://arxiv.org/abs/1901.08573)
    """

    def __init__(self, beta=6.0):
        self.beta = check_weight("beta", beta)

    def perturb(self, attack, classifier, batch):
        # An attack without the argument `loss` has its own loss.
        if getattr(attack, "loss", "own") is None:
            attack = _with_divergence(attack)
        return super().perturb(attack, classifier, batch)

    def loss(self, clean, adversarial):
        supervised = clean.loss
        divergence = kl_divergence(clean.logits, adversarial.logits)
        return supervised + at(self.beta, clean) * clean.mean(divergence)


def _with_divergence(attack):
    """Returns the attack with the loss of TRADES, and with its start if the attack has one."""
    if "random_start" in attack.get_config():
        return attack.clone(loss="kl", random_start="gaussian")
    # Some attacks always start at random, and have no argument for it.
    if getattr(attack, "random_start", False):
        return attack.clone(loss="kl")
    raise ValueError(
        "TRADES maximizes a divergence that has no gradient at the clean example, so its attack "
        'needs a random start: use attack="pgd", or set the loss of the attack. '
        f"Received: attack={attack!r}"
    )
