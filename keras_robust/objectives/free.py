"""Free adversarial training: one backward pass updates weights and perturbation."""

import keras
from keras import ops

from keras_robust.attacks import AttackResult
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.objectives.objective import Objective


@keras.saving.register_keras_serializable(package="keras_robust")
class Free(Objective):
    """Free adversarial training: one backward pass updates the weights and the perturbation.

    Each batch is replayed `num_replays` times, `m` in the paper. A replay computes the gradients of
    `L(f(x_adv), y)` with `x_adv = project(x + delta)`. The optimizer then steps along the gradient
    of the weights, and `delta <- project(delta + epsilon * sign(gradient of x_adv))` onto the ball
    around 0 (for `L2` the normalized gradient, for `L1` the largest coordinate). `delta` is never
    reset: the next batch starts from the last `delta` of this one. No attack runs, and the argument
    `attack` of `AdvTrain` is not used.

    It costs as much as plain training if the epochs are divided by `num_replays`, as the authors
    do. Every replay is an optimizer step, also for learning rate schedules, a scheduled epsilon and
    the warm-up of `AdvTrain`. Published results for CIFAR-10 at 8/255, a wide ResNet-32-10, clean
    and under PGD-20 with 10 restarts:

    | `num_replays` | clean | PGD |
    |---|---|---|
    | 2 | 91.5% | 33.2% |
    | 4 | 87.8% | 40.4% |
    | 8 | 86.0% | 46.3% (41.5% under AutoAttack) |
    | 10 | 83.9% | 45.9% |

    The logged `loss` and `adv_accuracy` come from the last replay, and `accuracy` from the model
    before the first replay. A batch that is shorter than the one before uses and changes the first
    rows of `delta` only. `delta` starts at zero in every `fit`, also in one that resumes a
    training: `BackupAndRestore` does not restore it, but a few batches make up for that.

    Deviations from the authors' code: the gradient also moves `delta` where a bound clips the
    input. Theirs is zero there, so that such a coordinate cannot turn back. Short batches are
    trained on. A radius that changes keeps its value from the first replay of a batch.

    Cost: `num_replays` training passes with the gradient of the input, and a forward pass for the
    clean metrics. BatchNorm statistics see the adversarial pass of every replay.

    Args:
        num_replays: int of at least 1, the optimizer steps on each batch. The paper uses `8` for
            CIFAR-10 and `4` for ImageNet at 4/255. Defaults to `8`.

    Raises:
        ValueError: if `num_replays` is not an int of at least 1, and in `fit` under several
            replicas, which cannot share one `delta`.

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
        delta, has_zero_gradient = batch.delta, True
        for _ in range(self.num_replays):
            # `delta` ignores the bounds, so project it for the images of this batch.
            found = AttackResult.unattacked(batch.threat_model.project(batch.x + delta, batch.x))
            result = gradient_step.apply(gradient_step.backward(self.loss, found))
            # Replace NaN, because `delta` would keep it forever.
            gradient = ops.where(ops.isfinite(result.input_gradient), result.input_gradient, 0.0)
            has_zero_gradient = ops.logical_and(has_zero_gradient, zero_gradient(gradient))
            delta = _ascend(delta, gradient, batch.threat_model)
        return result._replace(delta=delta, zero_gradient=has_zero_gradient)


def _ascend(delta, gradient, threat_model):
    """Returns `delta` after a step of length epsilon inside the ball around 0.

    The step ignores the bounds, because the next batch reuses `delta` with other images.
    """
    ball = threat_model.without_bounds()
    return ball.project(ball.step(delta, gradient, ball.radius), ops.zeros_like(delta))
