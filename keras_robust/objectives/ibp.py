"""Training on interval bounds, which prove a worst case."""

import functools

import keras

from keras_robust.attacks import AttackResult
from keras_robust.certification.interval import ball_box
from keras_robust.certification.interval import box_margins
from keras_robust.certification.linear_bounds import crown_margins
from keras_robust.objectives.interval_losses import check_intervals
from keras_robust.objectives.interval_losses import interval_losses
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import at
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class IBP(Objective):
    """Training on interval bounds (IBP): networks for which `certify(..., "interval")` is tight.

    `kappa L(f(x), y) + (1 - kappa) L(z_worst, y)`, where `z_worst_j` is an upper bound of
    `z_j - z_y` over the ball, and 0 for `j = y`. Interval bound propagation through the model in
    inference mode computes it, with the last Dense layer merged into the differences. No attack
    runs. The certified accuracy holds for every input in the ball, but clean accuracy is lower.

    It needs a warm-up, because a model learns nothing with the full radius from the start. Epsilon
    grows from 0 with the `warmup` of `AdvTrain`, over half of a short training, or with a
    `LearningRateSchedule` in the threat model. `kappa` falls from 1 to 0.5 over the same steps, as
    in the example. A schedule counts all optimizer steps, including those of `clean_epochs`, after
    which the warm-up starts.

    With `beta` it is CROWN-IBP (Zhang et al., 2020). The bound is `beta` times the bound of CROWN,
    which propagates the margins back to the input through linear bounds of every activation, plus
    `1 - beta` times the interval bound. `beta` falls from 1 to 0 while epsilon grows, so that the
    training ends with intervals alone, which also certify the model. CROWN-IBP supports
    the layers that `certification.Crown` and `certification.Interval` both support.

    Two parts of Shi et al. (2021) make the warm-up short. `initializers.IBPNormal` draws weights
    under which boxes keep their width. `regularization` is `lambda` of the penalty
    `lambda / (tau m) sum_i (relu(tau - w_0 / w_i) + relu(tau - a_i) + relu(tau - b_i))` over the
    `m` ReLUs, with `tau = 0.5`: `w_0` and `w_i` are the mean widths of the boxes of the inputs and
    in front of ReLU `i`; `a_i` compares the sum of the box centers of its active units with minus
    that of its inactive units, the smaller divided by the larger; `b_i` compares the sums of their
    squared distances from the mean center. It fades while epsilon grows, as `lambda = 0.5` of the
    authors does: `PolynomialDecay(0.5, ramp, 0.0)`. Models without ReLUs have no penalty.

    CTBench (Mao et al., 2025) found this to be the best plain IBP, with BatchNormalization after
    every layer but the last; 70 epochs on MNIST, 20 of them with growing epsilon; Adam with 5e-4, a
    fifth of it after epochs 50 and 60, and `global_clipnorm=10`; `kernel_regularizer=L1(2e-6)`; and
    `kappa = 0.3` throughout. The bounds use the moving statistics of BatchNormalization, as
    the certificate does: with `momentum=0.9` they keep up with the weights.

    On the embedded digits with epsilon 0.1, a small convolutional network reaches 95% clean and 78%
    certified accuracy after 30 epochs, 18 of them with growing epsilon. Without a warm-up it stays
    at chance. CROWN-IBP reaches 96% and 75% there, which is no gain on such a small network.

    The authors train MNIST for 60,000 steps, 2,000 of them plain (`clean_epochs`) and 10,000 with
    growing epsilon, with Adam at 1e-3, 1e-4 from step 15,000 and 1e-5 from step 25,000. Their
    training epsilon is larger than the test epsilon: 0.33 for 0.3, and 0.2 for 0.1. Published
    results, clean / certified by IBP / PGD: 98.9 / 97.1 / 98.0% at 0.1 and 98.3 / 91.8 / 96.0% at
    0.3, where independent attacks leave 92.8%; CIFAR-10 at 8/255: 49.5 / 31.6 / 39.5%. CROWN-IBP,
    MNIST at 0.3: 98.4 / 93.3 / 96.4%; CIFAR-10 at 8/255: 47.1 / 33.3 / 36.8%.

    Deviations from the papers: the compiled loss replaces the cross-entropy. All schedules depend
    on steps, where `beta` of CROWN-IBP and `lambda` depend on epsilon. Shi et al. bound a batch
    with the statistics of BatchNormalization in its clean examples, and CTBench computes those of
    the whole training set after each epoch.

    Cost: one training pass, and a pass of about twice its size through the bounds. Unless `beta` is
    0, another pass through the bounds, and about one training pass for each class. BatchNorm
    statistics see the clean pass, and the bounds use the moving statistics.

    Args:
        kappa: float from 0 to 1, the weight of the clean loss, or a `LearningRateSchedule` over
            optimizer steps. Defaults to `0.5`.
        beta: float from 0 to 1, the share of CROWN in the bound, or a `LearningRateSchedule` over
            optimizer steps. Use `PolynomialDecay(1.0, steps, 0.0)` for CROWN-IBP. Defaults to
            `0.0`.
        regularization: float, the weight `lambda` of the penalty, or a `LearningRateSchedule` over
            optimizer steps. Defaults to `0.0`.

    Raises:
        ValueError: for arguments out of range, and in `fit` for a threat model other than
            `Linf` and for a layer without a rule, which the message names.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> keras.utils.set_random_seed(0)
    >>> x = np.random.default_rng(0).uniform(size=(256, 2)).astype("float32")
    >>> y = (x[:, 0] > x[:, 1]).astype("int32")
    >>> dense = keras.layers.Dense
    >>> model = keras.Sequential([keras.Input((2,)), dense(16, activation="relu"), dense(2)])
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile(keras.optimizers.Adam(0.02), loss)
    >>> ramp = 80  # Steps, of 160.
    >>> kappa = keras.optimizers.schedules.PolynomialDecay(1.0, ramp, 0.5)
    >>> robust = kr.AdvTrain(kr.Linf(0.1), objective=kr.objectives.IBP(kappa), warmup=ramp)
    >>> history = model.fit(x, y, epochs=20, verbose=0, callbacks=[robust])
    >>> found = kr.certification.Interval().certify(model, x)
    >>> print(np.mean((found.predictions == y) & (found.radii >= 0.1)) > 0.6)
    True

    References:
        - [Gowal et al., 2018](https://arxiv.org/abs/1810.12715)
        - [Zhang et al., 2020](https://arxiv.org/abs/1906.06316), on CROWN-IBP.
        - [Shi et al., 2021](https://arxiv.org/abs/2103.17268), on the penalty.
        - [Mao et al., 2025](https://arxiv.org/abs/2406.04848), CTBench.
    """

    runs_attack = False

    def __init__(self, kappa=0.5, beta=0.0, regularization=0.0):
        self.kappa = check_weight("kappa", kappa, 1.0)
        self.beta = check_weight("beta", beta, 1.0)
        self.regularization = check_weight("regularization", regularization)

    def check(self, model, threat_model):
        check_intervals(self, model, threat_model, self._margins(1.0))

    def perturb(self, attack, classifier, batch):
        return AttackResult.unattacked(batch.x)

    def loss(self, clean, adversarial):
        kappa, ball = at(self.kappa, clean), clean.batch.threat_model
        supervised = clean.loss
        box = ball_box(clean.x, ball.radius, ball.bounds)
        margins = self._margins(at(self.beta, clean))
        worst, penalty = interval_losses(clean, box, self.regularization, margins)
        return kappa * supervised + (1.0 - kappa) * worst + penalty

    def _margins(self, beta):
        """Returns the function that bounds margins: intervals, or with CROWN."""
        return box_margins if self.beta == 0.0 else functools.partial(_mixed_margins, beta)


def _mixed_margins(beta, model, box, labels, relu_boxes=None):
    intervals = box_margins(model, box, labels, relu_boxes)
    return beta * crown_margins(model, box, labels) + (1.0 - beta) * intervals
