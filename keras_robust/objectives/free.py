"""Free adversarial training: every batch several times, and each gradient used twice."""

import keras
from keras import ops

from keras_robust.attacks import AttackResult
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.objectives.objective import Objective


@keras.saving.register_keras_serializable(package="keras_robust")
class Free(Objective):
    """Free adversarial training: one backward pass moves the weights and the perturbation.

    Each batch is replayed `num_replays` times, `m` in the paper. A replay takes the gradients of
    `L(f(x_adv), y)` with `x_adv = project(x + delta)`; then the optimizer steps along the gradient
    of the weights, and `delta <- project(delta + epsilon * sign(gradient of x_adv))` onto the ball
    around 0 (in `L2` the normalised gradient, in `L1` the largest coordinate). `delta` is never
    reset: the next batch starts from what this one has left. No attack runs, and the argument
    `attack` of `AdvTrain` is not used.

    It costs what plain training does if the epochs are divided by `num_replays`, which the authors
    do. Optimizer steps count replays, and so do learning rate schedules, a scheduled epsilon and
    the warm-up of `AdvTrain`. CIFAR-10 at 8/255, a wide ResNet-32-10, clean and under PGD-20 with
    10 restarts:

    | `num_replays` | clean | PGD |
    |---|---|---|
    | 2 | 91.5% | 33.2% |
    | 4 | 87.8% | 40.4% |
    | 8 | 86.0% | 46.3% (41.5% under AutoAttack) |
    | 10 | 83.9% | 45.9% |

    Logged `loss` and `adv_accuracy` are those of the last replay; `accuracy` is that before the
    first. A batch that is shorter than the last uses, and changes, the first rows of `delta` only.
    `delta` starts at zero with every `fit`, also with one that resumes a training: it is the one
    thing that `BackupAndRestore` does not bring back, and a few batches make up for it.

    Deviations from the authors' code: the gradient moves `delta` also where the bounds stop it,
    which is zero for them, so that a coordinate beside a bound can turn round. Short batches are
    trained on. The radius, where it changes, is that at the first replay of a batch.

    Cost: `num_replays` training passes with the gradient of the input, and a forward pass for the
    clean metrics. BatchNorm statistics see
    the adversarial pass of every replay.

    Args:
        num_replays: int from 1, optimizer steps on each batch: `8` for CIFAR-10, `4` for ImageNet
            at 4/255. Defaults to `8`.

    Raises:
        ValueError: if `num_replays` is not an int from 1; in `fit`, under several replicas, which
            cannot share one `delta`.

    Example:

    >>> import keras_robust as kr
    >>> print(kr.AdvTrain(objective=kr.objectives.Free(num_replays=4)).objective)
    Free(num_replays=4)

    References:
        - [Shafahi et al., 2019](https://arxiv.org/abs/1904.12843)
    """

    persistent_delta = True

    def __init__(self, num_replays=8):
        if not isinstance(num_replays, int) or num_replays < 1:
            raise ValueError(
                f"Argument `num_replays` must be an int >= 1. Received: num_replays={num_replays!r}"
            )
        self.num_replays = num_replays

    @property
    def steps_per_batch(self):
        return self.num_replays

    def loss(self, clean, adversarial):
        return adversarial.loss

    def step(self, gradient_step, attack, batch):
        delta, is_blind = batch.delta, True
        for _ in range(self.num_replays):
            found = AttackResult.unattacked(batch.threat_model.project(batch.x + delta, batch.x))
            result = gradient_step.apply(gradient_step.backward(self.loss, found))
            # A NaN would stay in `delta` for good.
            gradient = ops.where(ops.isfinite(result.input_gradient), result.input_gradient, 0.0)
            is_blind = ops.logical_and(is_blind, zero_gradient(gradient))
            delta = _ascend(delta, gradient, batch.threat_model)
        result.adversarial.found = found._replace(zero_gradient=is_blind)
        return result._replace(delta=delta)


def _ascend(delta, gradient, threat_model):
    """Moves `delta` by epsilon, inside the ball around 0.

    The box is left out: `delta` is for the next batch as well, whose images have other boxes.
    """
    ball = threat_model.without_bounds()
    return ball.project(ball.step(delta, gradient, ball.radius), ops.zeros_like(delta))
