"""Training on interval bounds over a small box around an adversarial example."""

import numbers

import keras

from keras_robust.attacks import PGD
from keras_robust.certification.interval import ball_box
from keras_robust.objectives.interval_losses import check_intervals
from keras_robust.objectives.interval_losses import interval_losses
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import check_weight


@keras.saving.register_keras_serializable(package="keras_robust")
class SABR(Objective):
    """The loss of interval bounds over a small box around an adversarial example.

    `L(z_worst, y)`, where `z_worst` are the interval bounds of `IBP` over the box of radius
    `tau = lambda epsilon` around `x_adv`, and `x_adv` comes from the attack in the ball of radius
    `epsilon - tau`, so that the box lies in the ball. Bounds over a small box are less loose, and
    the box is where the loss is high. Clean accuracy is higher than with `IBP`, and a tighter
    certificate, `"crown"`, `"alpha_crown"` or `"complete"`, proves more than `"interval"`. With
    `lambda = 1` it is `IBP(kappa=0)`, and near 0 it becomes `Adversarial`.

    Epsilon must grow, as for `IBP`: see `warmup` of `AdvTrain`. `IBPNormal` and `regularization`
    make this period short. The smaller the radius, the smaller the best `lambda`: 0.1 is usual for
    CIFAR-10 at 2/255.

    `adv_accuracy` is the accuracy at the centers of the boxes.

    Deviations from the authors' code: the steps of the default attack, 8 as theirs, do not shrink.
    The small box is cut off at the bounds of the inputs. BatchNorm statistics see one clean pass,
    and the bounds use the moving statistics.

    Cost: one training pass, a pass of about twice its size through the bounds, and the passes of
    the attack.

    Args:
        subselection_ratio: float above 0 and at most 1, `lambda`. Defaults to `0.4`.
        regularization: float, the weight of the penalty of `IBP` on wide boxes and one-sided ReLUs,
            or a `LearningRateSchedule` over optimizer steps. Defaults to `0.0`.

    Raises:
        ValueError: for arguments out of range, and in `fit` for a threat model other than `Linf`
            and for a layer without a rule, which the message names.

    Example:

    >>> import keras_robust as kr
    >>> train = kr.AdvTrain(kr.Linf(0.1), objective=kr.objectives.SABR(0.2), warmup="40%")
    >>> print(train.objective)
    SABR(subselection_ratio=0.2, regularization=0.0)

    References:
        - [Mueller et al., 2023](https://arxiv.org/abs/2210.04871)
    """

    default_attack = PGD(num_steps=8)

    def __init__(self, subselection_ratio=0.4, regularization=0.0):
        is_number = isinstance(subselection_ratio, numbers.Real)
        if not is_number or not 0.0 < subselection_ratio <= 1.0:
            raise ValueError(
                "Argument `subselection_ratio` must be a number above 0 and at most 1. "
                f"Received: subselection_ratio={subselection_ratio!r}"
            )
        self.subselection_ratio = subselection_ratio
        self.regularization = check_weight("regularization", regularization)

    def check(self, model, threat_model):
        check_intervals(self, model, threat_model)

    def perturb(self, attack, classifier, batch):
        ball = batch.threat_model.scaled(1.0 - self.subselection_ratio)
        return super().perturb(attack, classifier, batch._replace(threat_model=ball))

    def loss(self, clean, adversarial):
        ball = clean.batch.threat_model.scaled(self.subselection_ratio)
        box = ball_box(adversarial.x, ball.radius, ball.bounds)
        worst, penalty = interval_losses(clean, box, self.regularization)
        return worst + penalty
