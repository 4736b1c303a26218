"""Adversarial training of the smoothed classifier."""

import keras
from keras import ops

from keras_robust import models
from keras_robust import training
from keras_robust.attacks import PGD
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.objectives.noisy_copies import check_copies
from keras_robust.objectives.noisy_copies import copies
from keras_robust.objectives.noisy_copies import draw_noise
from keras_robust.objectives.noisy_copies import log_mean_probabilities
from keras_robust.objectives.noisy_copies import repeat_rows
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import check_weight
from keras_robust.threat_models.parsing import parse_fraction


@keras.saving.register_keras_serializable(package="keras_robust")
class SmoothAdv(Objective):
    """Adversarial training for randomized smoothing: the attack is on the smoothed classifier.

    `mean_k L(f(x_adv + n_k), y)` with `n_1, ..., n_m ~ N(0, sigma^2 I)`. `x_adv` maximizes
    `-log mean_k p_y(x_adv + n_k)`, `p = softmax f`: the loss of the smoothed prediction, not the
    mean loss. All steps of the attack and the loss use the same noise. Certified radii become
    larger than with `GaussianNoise`, large radii most of all. Certify with the same `sigma`:
    `certify(..., "smoothing")`.

    The certificate is in `L2`, so train with `kr.L2(epsilon)`. On CIFAR-10 the authors use an
    epsilon of 64/255 to 512/255, 2 to 10 steps, `m` from 1 to 8, and SGD for 150 epochs with a
    learning rate of 0.1, divided by 10 every 50 epochs; epsilon grows during the first 10 epochs
    (`warmup`). Published results for CIFAR-10, ResNet-110, certified accuracy at radius 0 / 0.25 /
    0.5 / 0.75: 74 / 67 / 57 / 47% for sigma 0.25, where noise alone gives 75 / 60 / 43 / 26%.

    `adv_accuracy` is the accuracy of the model on the first noisy copy of each adversarial example.

    Deviations from the authors' code: like theirs, the default attack is `PGD` without a random
    start, but its steps are `2.5 epsilon / num_steps` where theirs has a factor of 2; it projects
    exactly onto ball and bounds where theirs clips and then scales; and it does not replace a zero
    gradient by a random direction. A batch is one optimizer step over all copies, where theirs
    splits it into `m` parts or, by default, trains on one copy of each example.

    Cost: `m` training passes, `m` times the passes of the attack, and one forward pass for the
    logs. BatchNorm statistics see one pass of all noisy copies.

    Args:
        noise_stddev: float, `sigma`, in the units of the input, or a `LearningRateSchedule` over
            optimizer steps. Defaults to `0.25`.
        num_samples: int of at least 1, `m`, noisy copies of each example. Defaults to `2`.

    Raises:
        ValueError: for arguments out of range; in `fit` for a model with several inputs, for
            `AtLayer`, and for a model that is not a classifier.

    Example:

    >>> import keras_robust as kr
    >>> train = kr.AdvTrain(kr.L2("128/255"), objective=kr.objectives.SmoothAdv(0.5))
    >>> print(train.objective)
    SmoothAdv(noise_stddev=0.5, num_samples=2)

    References:
        - [Salman et al., 2019](https://arxiv.org/abs/1906.04584)
        - [authors' code](https://github.com/Hadisalman/smoothing-adversarial)
    """

    default_attack = PGD(random_start=False)

    def __init__(self, noise_stddev=0.25, num_samples=2):
        check_counts(num_samples=num_samples)
        noise_stddev = parse_fraction("noise_stddev", noise_stddev)
        self.noise_stddev = check_weight("noise_stddev", noise_stddev)
        self.num_samples = num_samples

    def check(self, model, threat_model):
        check_copies(type(self).__name__, model, threat_model)

    def perturb(self, attack, classifier, batch):
        noise = draw_noise(batch, self.noise_stddev, self.num_samples)
        smoothed = models.Classifier(_Smoothed(classifier, batch.y, noise, self.num_samples))
        found = super().perturb(attack, smoothed, batch)
        # `AdvTrain` measures `adv_accuracy` at these points, the first noisy copies.
        return found._replace(x_adv=found.x_adv + noise[:: self.num_samples])

    def loss(self, clean, adversarial):
        batch, num_samples = adversarial.batch, self.num_samples
        noise = draw_noise(batch, self.noise_stddev, num_samples)
        # `perturb` returned the first copy, so add only the differences from its noise.
        more = noise - repeat_rows(noise[::num_samples], num_samples)
        forward_pass = training.ForwardPass(
            adversarial.classifier, copies(batch, more, num_samples)
        )
        if forward_pass.classifier.reduction != "sum":
            return forward_pass.loss
        # A sum over all copies would be `num_samples` times too large.
        return forward_pass.weighted_loss(ops.ones(ops.shape(noise)[:1], "float32") / num_samples)


class _Smoothed:
    """A model whose logits are the log of its mean probabilities over fixed noise."""

    def __init__(self, classifier, y, noise, num_samples):
        self._classifier = classifier
        self._y = y
        self._noise = noise
        self._num_samples = num_samples

    @property
    def compute_dtype(self):
        """The compute dtype of the model, which limits how small a gradient can be."""
        return getattr(self._classifier.model, "compute_dtype", None)

    def __call__(self, x):
        noisy = repeat_rows(x, self._num_samples) + self._noise
        return log_mean_probabilities(self._classifier.logits(noisy, self._y), self._num_samples)
