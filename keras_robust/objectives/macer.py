"""MACER: training for a large certified radius of the smoothed classifier."""

import math

import keras
from keras import ops

from keras_robust import losses
from keras_robust import models
from keras_robust import training
from keras_robust.attacks import AttackResult
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.objectives.noisy_copies import check_copies
from keras_robust.objectives.noisy_copies import copies
from keras_robust.objectives.noisy_copies import draw_noise
from keras_robust.objectives.noisy_copies import log_mean_probabilities
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight
from keras_robust.threat_models.parsing import parse_fraction


@keras.saving.register_keras_serializable(package="keras_robust")
class MACER(Objective):
    """Maximizes the certified radius of the smoothed classifier (MACER), without an attack.

    `L(mean_k p(x + n_k), y) + weight * sigma / 2 * mean_i 1[i right] max(gamma - xi_i, 0)`, with
    `n_1, ..., n_k ~ N(0, sigma^2 I)` and `p = softmax f`. The first term is the loss of the
    smoothed prediction. The second is a hinge loss on its radius `sigma / 2 * xi`,
    `xi = Phi^-1(q_1) - Phi^-1(q_2)`, where `q` is the mean of `softmax(beta f(x + n_k))`, which is
    close to the share of votes, and `q_1`, `q_2` are its two largest entries. The second term omits
    examples that the smoothed classifier misclassifies, examples with `xi > gamma`, and examples
    whose `xi` is not finite in float32.

    It has the same goal as `SmoothAdv` and needs a fraction of its passes. With the default
    `weight` a small network may predict one class for all inputs: watch the accuracy, and start
    with `weight` 1, or from a network trained with `GaussianNoise`. Certify with the same `sigma`:
    `certify(..., "smoothing")`. The threat model and the attack of `AdvTrain` are not used. The
    authors train CIFAR-10 for 440 epochs with batches of 64, and SGD with a learning rate of 0.01,
    divided by 10 after 200 and 400 epochs. Published results for ResNet-110, sigma 0.25, certified
    accuracy at radius 0 / 0.25 / 0.5 / 0.75: 81 / 71 / 59 / 43%, and an average radius of 0.556,
    where `SmoothAdv` has 0.538 and noise alone 0.416.

    Deviations from the authors' code: the compiled loss replaces the cross-entropy, and the
    logarithm of the mean is exact, where theirs adds 1e-10 to the mean.

    Cost: `k` training passes, and one forward pass for the metrics of clean examples. BatchNorm
    statistics see one pass of all noisy copies.

    Args:
        noise_stddev: float, `sigma`, in the units of the input, or a `LearningRateSchedule` over
            optimizer steps. Defaults to `0.25`.
        num_samples: int of at least 1, `k`, noisy copies of each example. Defaults to `16`.
        weight: float, the `lambda` of the paper, or a `LearningRateSchedule` over optimizer steps.
            Defaults to `12.0`.
        gamma: float above 0, the `xi` up to which the loss enlarges radii. Defaults to `8.0`.
        beta: float above 0, the inverse temperature. Defaults to `16.0`.

    Raises:
        ValueError: for arguments out of range; in `fit` for a model with several inputs, for
            `AtLayer`, and for a model that is not a classifier.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.AdvTrain(objective=kr.objectives.MACER(0.5, weight=4.0)).objective)
    MACER(noise_stddev=0.5, num_samples=16, weight=4.0, gamma=8.0, beta=16.0)

    References:
        - [Zhai et al., 2020](https://arxiv.org/abs/2001.02378)
        - [authors' code](https://github.com/MacerAuthors/macer)
    """

    runs_attack = False

    def __init__(self, noise_stddev=0.25, num_samples=16, weight=12.0, gamma=8.0, beta=16.0):
        check_counts(num_samples=num_samples)
        check_numbers(gamma=gamma, beta=beta)
        noise_stddev = parse_fraction("noise_stddev", noise_stddev)
        self.noise_stddev = check_weight("noise_stddev", noise_stddev)
        self.num_samples = num_samples
        self.weight = check_weight("weight", weight)
        self.gamma = gamma
        self.beta = beta

    def check(self, model, threat_model):
        check_copies(type(self).__name__, model, threat_model)

    def perturb(self, attack, classifier, batch):
        return AttackResult.unattacked(batch.x)

    def loss(self, clean, adversarial):
        batch, classifier = clean.batch, clean.classifier
        noise = draw_noise(batch, self.noise_stddev, self.num_samples)
        noisy = training.ForwardPass(classifier, copies(batch, noise, self.num_samples))
        smoothed = log_mean_probabilities(noisy.logits, self.num_samples)
        outputs = classifier.to_outputs(smoothed, noisy.outputs)
        inputs = classifier.pack(clean.x)
        supervised = classifier.model.compute_loss(inputs, clean.y, outputs, batch.sample_weight)
        # A large `beta` makes the mean of probabilities close to the share of votes.
        votes = ops.exp(log_mean_probabilities(self.beta * noisy.logits, self.num_samples))
        labels = losses.to_indices(models.single(clean.y), votes.shape[-1])
        scale = 0.5 * at(self.noise_stddev, clean) * at(self.weight, clean)
        shortfall = clean.mean(_shortfall(labels, votes, self.gamma))
        return ops.cast(supervised, "float32") + scale * shortfall


def _shortfall(labels, probabilities, gamma):
    """Returns `gamma - xi` per example, or 0 with zero gradient where `xi` does not count."""
    top, classes = ops.top_k(probabilities, 2)
    quantiles = _normal_quantile(ops.stop_gradient(top))
    gap = quantiles[:, 0] - quantiles[:, 1]
    is_right = ops.equal(ops.cast(classes[:, 0], "int32"), labels)
    # The comparison is false for an infinite gap and for NaN.
    counts = ops.logical_and(is_right, gap <= gamma)
    # Replace these inputs before the quantile, whose infinite gradient times 0 would be NaN.
    quantiles = _normal_quantile(ops.where(ops.expand_dims(counts, -1), top, 0.5))
    return ops.where(counts, gamma - quantiles[:, 0] + quantiles[:, 1], 0.0)


def _normal_quantile(probabilities):
    """Returns `Phi^-1`, the quantile function of the standard normal distribution."""
    return math.sqrt(2.0) * ops.erfinv(2.0 * probabilities - 1.0)
