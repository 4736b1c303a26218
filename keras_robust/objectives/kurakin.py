"""Adversarial training at scale: a share of every batch becomes adversarial."""

import math
import numbers

import keras
from keras import ops

from keras_robust import backend
from keras_robust.attacks import FGSM
from keras_robust.attacks import AttackResult
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight
from keras_robust.threat_models import ThreatModel

_TINY = 1e-12
# Folded into the seed of the batch, because the attack draws from that seed itself.
_DRAW = 227
# The normal distribution is truncated at two standard deviations, which correspond to epsilon.
_CUT = 2.0


@keras.saving.register_keras_serializable(package="keras_robust")
class Kurakin(Objective):
    """Adversarial machine learning at scale: part of each batch becomes adversarial.

    Adversarial examples replace the first `k = share * m` examples of a batch of `m` examples, and
    have the weight `weight`, `lambda` in the paper:
    `[sum_clean L + weight * sum_adv L] / [(m - k) + weight * k]`. The model and its BatchNorm see
    one batch of clean and adversarial examples together.

    The default attack is one step towards the least likely class, `FGSM("least_likely")`. A step
    away from the label would reveal the label (label leaking), and the model would learn to read
    it. Every example has its own epsilon, `|n|` with `n` normal with standard deviation
    `epsilon / 2` and truncated at epsilon, because with a fixed epsilon the model resists at that
    epsilon only. The model resists one-step attacks; the authors found almost no gain against
    iterative attacks. Use `Adversarial` with `PGD` for those.

    Deviations from the paper: the attack sees the model in inference mode; `k` is rounded to the
    nearest int, and is at least 1. With several replicas, each attacks the first `k` of its own
    examples.

    Cost: one training pass, the passes of the attack on `k` of `m` examples (on all of them under
    a threat model for several inputs or for a layer), and one forward pass for the clean metrics.
    BatchNorm statistics see the mixed batch once. `adv_accuracy` is that of the `k` examples.

    Args:
        share: float between 0 and 1, the part of each batch that is attacked. Defaults to `0.5`.
        weight: float or a `LearningRateSchedule` over optimizer steps, the weight of an adversarial
            example relative to a clean one. Defaults to `0.3`.
        random_epsilon: bool, whether every example has its own epsilon; `False` for the epsilon of
            the threat model. Defaults to `True`.

    Raises:
        ValueError: if `share` is not between 0 and 1, or `weight` is negative.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.AdvTrain(objective="kurakin").attack)
    FGSM(targeted='least_likely', loss=None)

    References:
        - [Kurakin et al., 2017](https://arxiv.org/abs/1611.01236)
    """

    default_attack = FGSM(targeted="least_likely")

    def __init__(self, share=0.5, weight=0.3, random_epsilon=True):
        if not isinstance(share, numbers.Real) or not 0.0 < share < 1.0:
            raise ValueError(
                "Argument `share` must be a number above 0 and below 1: use the objective 'clean' "
                "for clean examples only, and 'adversarial' for adversarial examples only. "
                f"Received: share={share!r}"
            )
        self.share = share
        self.weight = check_weight("weight", weight)
        self.random_epsilon = bool(random_epsilon)

    def attacked_mask(self, batch):
        size = ops.shape(batch.x)[0]
        return ops.arange(size, dtype="int32") < self._count(size)

    def perturb(self, attack, classifier, batch):
        x, count = batch.x, self._count(ops.shape(batch.x)[0])
        chosen = batch
        # Attack only the examples that count, if the threat model allows it.
        if _is_plain(batch.threat_model):
            y = keras.tree.map_structure(lambda y: y[:count], batch.y)
            chosen = batch._replace(x=x[:count], y=y)
        if self.random_epsilon:
            chosen = chosen._replace(threat_model=_with_random_radius(chosen))
        found = super().perturb(attack, classifier, chosen)
        # Append the clean examples, so that the result has a row for every example of the batch.
        pairs = zip(found, AttackResult.unattacked(x[count:]), strict=True)
        return AttackResult(
            *(ops.concatenate([one[:count], other], axis=0) for one, other in pairs)
        )

    def loss(self, clean, adversarial):
        attacked_mask = ops.cast(self.attacked_mask(adversarial.batch), "float32")
        weights = 1.0 + attacked_mask * (at(self.weight, adversarial) - 1.0)
        # Keras divides by the batch size, so normalize the weights to a mean of 1.
        return adversarial.weighted_loss(weights / ops.maximum(ops.mean(weights), _TINY))

    def _count(self, size):
        """Returns `k` for a batch of `size`, an int or a tensor."""
        if isinstance(size, int):
            return max(1, math.floor(self.share * size + 0.5))
        count = ops.floor(self.share * ops.cast(size, "float32") + 0.5)
        return ops.maximum(ops.cast(count, "int32"), 1)


def _is_plain(threat_model):
    """Returns whether part of a batch can be attacked.

    A threat model that binds the model to the whole batch, because it changes several inputs or a
    layer, cannot.
    """
    return type(threat_model).bind is ThreatModel.bind


def _with_random_radius(batch):
    """Returns the threat model with a random share of its radius for each example."""
    shape = (ops.shape(batch.x)[0],) + (1,) * (len(batch.x.shape) - 1)
    share = backend.uniform(shape, backend.fold_in(batch.seed, _DRAW))
    # Inverse transform sampling from the truncated half-normal distribution.
    deviations = math.sqrt(2.0) * ops.erfinv(share * math.erf(_CUT / math.sqrt(2.0)))
    return batch.threat_model.scaled(deviations / _CUT)
