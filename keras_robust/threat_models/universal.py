"""A threat model in which all examples share one perturbation."""

import keras
from keras import ops

from keras_robust import models
from keras_robust.threat_models.threat_model import ROUNDING
from keras_robust.threat_models.threat_model import TOLERANCE
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model_wrapper import ThreatModelWrapper


@keras.saving.register_keras_serializable(package="keras_robust")
class Universal(ThreatModelWrapper):
    """One perturbation for all examples, within the ball of another threat model.

    The attacker chooses one `delta` in the ball around 0, before seeing the example, and every
    example becomes `clip(x + delta)`. A search maximizes the mean loss over all examples:
    `max_delta mean_i loss(clip(x_i + delta), y_i)`. So the direction of a step is that of the sum
    of their gradients. To an attack the perturbation is a single example, and every attack that
    maximizes a loss takes it, with one restart.

    A call on a data set finds one perturbation for all of its examples, which run as one batch
    whatever `batch_size` says: choose a number of examples that fits the memory. `evaluate` takes a
    single attack, and searches the perturbation on the examples that the model classifies
    correctly. Robust accuracy against several attacks would be that against several perturbations.
    The perturbation is found on the very examples that are counted, which is the worst case; to
    measure how it transfers to others, add it to them.

    In `AdvTrain`, attacks find a perturbation for each batch. With the objective
    `Free(num_replays=1)` one perturbation is kept from batch to batch, and every batch moves it
    once and the weights once, as in Shafahi et al. (2020), whatever attack is given.

    Deviations from the papers: Moosavi-Dezfooli et al. add minimal perturbations of single
    examples, whereas this is gradient ascent as in Shafahi et al.; their loss is clipped per
    example, which `loss` may do here.

    Args:
        threat_model: a `ThreatModel` for one tensor, with one radius, or its name.

    Raises:
        ValueError: for a threat model that is itself for several inputs, for a layer, or for
            parameters. Once an attack runs: for more than one search or attack, and for an
            attack that maximizes no loss.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.6, 0.4], [0.3, 0.4], [0.9, 0.2]], "float32"), np.array([0, 1, 0])
    >>> ball = kr.threat_models.Universal(kr.Linf(0.1))
    >>> print(np.round(kr.attacks.FGSM()(lambda x: x, x, y, ball) - x, 2))
    [[-0.1  0.1]
     [-0.1  0.1]
     [-0.1  0.1]]

    References:
        - [Moosavi-Dezfooli et al., 2017](https://arxiv.org/abs/1610.08401)
        - [Shafahi et al., 2020](https://arxiv.org/abs/1811.11304)
    """

    shares_perturbation = True

    def __init__(self, threat_model):
        super().__init__(threat_model)

    def bind(self, model, inputs):
        return *models.expose_input(model, inputs), self

    def check_shape(self, shape):
        # An array with one radius per feature is allowed, one per example is not.
        self.threat_model.check_shape((None, *shape[1:]))

    def ball(self):
        """Returns the threat model of the perturbation itself, which has no box."""
        return self.threat_model.without_bounds()

    def steepest_direction(self, gradient):
        return self.threat_model.steepest_direction(_summed(gradient))

    def linear_maximization_oracle(self, direction, x):
        """Returns the best point without a box, clipped to the box: with one, not the best."""
        zero = ops.zeros_like(x)
        return self.clip(x + self.ball().linear_maximization_oracle(_summed(direction), zero))

    def step(self, x_adv, gradient, step_size):
        return self.ball().step(x_adv, _summed(gradient), step_size)

    def random_start(self, x, seed):
        return self.clip(x + self.ball().random_start(*self.alone(x, seed)))

    def random_start_on_sphere(self, x, seed):
        return self.clip(x + self.ball().random_start_on_sphere(*self.alone(x, seed)))

    def alone(self, x, seed):
        """Returns a perturbation of zeros, `(1, ...)`, and a seed for it."""
        return ops.zeros_like(x[:1]), seed if len(seed.shape) == 1 else seed[:1]

    def contains(self, x_adv, x, tolerance=TOLERANCE):
        """Returns whether one perturbation makes every `x_adv` of `x`, the same for all rows."""
        inside = ops.all(self.threat_model.contains(x_adv, x, tolerance))
        slack = tolerance * ops.max(self.radius) + ROUNDING * ops.max(ops.abs(x))
        low, high = self._box()
        # At an end of the box, the perturbation may be larger than the change that is seen.
        least = ops.max(ops.where(x_adv > low, x_adv - x, -float("inf")), axis=0)
        most = ops.min(ops.where(x_adv < high, x_adv - x, float("inf")), axis=0)
        is_one = ops.all(least <= most + 2.0 * slack)
        return ops.broadcast_to(ops.logical_and(inside, is_one), ops.shape(x)[:1])

    @property
    def _bounds(self):
        return self.threat_model.bounds


def _summed(gradient):
    """Returns the sum over the examples, once for each of them."""
    # Divided by the largest entry, because the sum may overflow.
    largest = ops.max(ops.abs(flatten(gradient)))
    share = gradient / ops.where(largest > 0.0, largest, 1.0)
    return ops.broadcast_to(ops.sum(share, axis=0, keepdims=True), ops.shape(gradient))
