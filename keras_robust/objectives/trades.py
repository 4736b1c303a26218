"""TRADES: accuracy on clean examples against agreement on their neighbours."""

import keras

from keras_robust.losses import kl_divergence
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class TRADES(Objective):
    """The compiled loss on clean examples plus the divergence of their worst neighbours.

    `L(f(x), y) + beta * mean_i KL(softmax f(x_i) || softmax f(x_adv_i))`, and `x_adv` maximises the
    same divergence, from a small Gaussian start `x + 0.001 * normal`, because the divergence has
    no gradient at `x`. An attack that leaves its `loss` open (`loss=None`) is given this loss and
    start; one with a loss of its own is used as it is.

    Deviations from the authors' code: one clean pass per step where they make two; the attack's own
    step size, where they use 0.007 for epsilon 0.031 and 0.01 for 0.3. The clean branch is not
    detached, as there.

    Cost: two training passes, those of the attack, and a forward pass at `x`. BatchNorm statistics
    see one clean and one adversarial pass.

    Args:
        beta: float, the weight of the divergence, `1 / lambda` in the paper: `1` for MNIST, `6` for
            CIFAR-10; or a `LearningRateSchedule` over optimizer steps. Defaults to `6.0`.

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
        if getattr(attack, "loss", "own") is None:
            attack = _with_divergence(attack)
        return super().perturb(attack, classifier, batch)

    def loss(self, clean, adversarial):
        supervised = clean.loss
        divergence = kl_divergence(clean.logits, adversarial.logits)
        return supervised + at(self.beta, clean) * clean.mean(divergence)


def _with_divergence(attack):
    """The attack with the loss of TRADES; its start too, if the attack can start elsewhere."""
    if "random_start" in attack.get_config():
        return attack.clone(loss="kl", random_start="gaussian")
    if getattr(attack, "random_start", False):
        return attack.clone(loss="kl")
    raise ValueError(
        "TRADES maximises a divergence that has no gradient at the clean example, so its attack "
        'needs a random start: use attack="pgd", or give the attack a loss of its own. '
        f"Received: attack={attack!r}"
    )
