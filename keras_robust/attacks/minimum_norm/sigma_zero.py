"""Sigma-zero: a minimum-norm attack in `L0`."""

import keras
from keras import ops

from keras_robust import threat_models
from keras_robust.attacks.adam import Adam
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.minimum_norm.nearest_visited import cosine
from keras_robust.attacks.minimum_norm.nearest_visited import nearest_visited
from keras_robust.attacks.minimum_norm.nearest_visited import width_of_box
from keras_robust.attacks.minimum_norm.penalty_attack import WeightedProblem
from keras_robust.attacks.minimum_norm.penalty_attack import hinge_gradient
from keras_robust.attacks.minimum_norm.penalty_attack import make_hinge
from keras_robust.threat_models.hyperplane_step import largest_of
from keras_robust.threat_models.threat_model import per_example

_LAST_STEP = 1 / 10


@keras.saving.register_keras_serializable(package="keras_robust")
class SigmaZero(MinimumNormAttack):
    """Finds a mistake with few changed features: sigma-zero, by a smooth approximation of `L0`.

    It descends `max(z_y - max_{j != y} z_j, 0) + 1/d sum_i delta_i^2 / (delta_i^2 + sigma)` for `d`
    features. The gradient is divided by its largest entry, Adam takes a step of `eta`, and `delta`
    is clipped to the bounds. Then `tau` rises by `tau_factor eta` at a mistake, and falls by as
    much at other points, within 0 and 1, and every `delta_i` below `tau` becomes 0. `eta` falls
    from `step_size` to a tenth of it along a cosine. The result is the mistake visited that changes
    the fewest features. As in the threat model `L0`, a feature is a number, or a whole pixel with
    `per_pixel=True`, of which `delta_i^2` is the squared Euclidean length.

    A step costs as much as one of `FMN`, which moves along the gradient and projects. The count is
    no lower bound, and at one fixed count PGD in `L0` with restarts may break more. Where
    `zero_gradient` is true, the count means nothing.

    Deviations from the paper: pixels, since its features are single numbers; Adam, as in the
    authors' code; `eta`, `tau` and the root of `sigma` are shares of the width of the box, which is
    1 in theirs. Deviations from the authors' code: `tau` changes by the `eta` of the same step, not
    of the next; targets; the last point is evaluated as well;
    changes that the mistake does not need are taken back afterwards.

    Cost: `num_steps` attack passes and 1 forward pass, and 13 more to take changes back. BatchNorm
    statistics are not updated.

    Args:
        num_steps: int >= 1, the number of steps. Defaults to `100`; the paper uses up to 1000.
        step_size: float > 0, the first `eta`. Defaults to `1.0`.
        sigma: float > 0. A smaller one is nearer to a count, but its slope vanishes for large
            changes. Defaults to `0.001`.
        threshold: float >= 0, the first `tau`. Defaults to `0.3`.
        threshold_factor: float >= 0, `tau_factor`. Defaults to `0.01`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`, and any wrong class counts
            as success. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, for a threat model other than `L0`, and for a model
            that is not a classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> found = kr.attacks.SigmaZero(num_steps=50).run(
    ...     lambda x: x @ weights + bias, x, y, kr.threat_models.L0(1))
    >>> print(found.success, -found.loss)
    [ True] [1.]

    References:
        - [Cina et al., 2025](https://arxiv.org/abs/2402.01879)
    """

    def __init__(
        self,
        *,
        num_steps=100,
        step_size=1.0,
        sigma=1e-3,
        threshold=0.3,
        threshold_factor=0.01,
        targeted=False,
    ):
        check_counts(num_steps=num_steps)
        check_numbers(step_size=step_size, sigma=sigma)
        check_numbers(or_zero=True, threshold=threshold, threshold_factor=threshold_factor)
        check_choice("targeted", targeted, (True, False, "least_likely"))
        self.num_steps = num_steps
        self.step_size = step_size
        self.sigma = sigma
        self.threshold = threshold
        self.threshold_factor = threshold_factor
        self.targeted = targeted

    def nearest(self, problem):
        x, threat_model = problem.x, problem.threat_model
        if not isinstance(threat_model, threat_models.L0):
            raise ValueError(
                "SigmaZero changes few features, and needs the threat model L0, such as L0(10). "
                f"Received: {threat_model!r}"
            )
        hinge = make_hinge(problem, self.targeted, 0.0)
        weighted = WeightedProblem(x, threat_model, None, hinge)
        width = width_of_box(threat_model)
        steps = cosine(self.step_size, _LAST_STEP, self.num_steps)

        def judge(x_adv):
            return hinge_gradient(weighted, x_adv)

        def move(step, visit, memory):
            adam, threshold = memory
            delta = (visit.x_adv - x) / width
            gradient = width * visit.gradient + self._slope(delta, threat_model)
            # The largest entry becomes 1, so that both terms move however small the loss is.
            adam = adam.add(gradient / per_example(largest_of(ops.abs(gradient)), x))
            direction, size = adam.direction_and_size()
            rate = ops.take(steps, step)
            moved = threat_model.clip(visit.x_adv - width * rate * direction / size)
            # After a mistake more features return to the example, otherwise fewer.
            change = self.threshold_factor * rate
            threshold = ops.clip(threshold + ops.where(visit.success, change, -change), 0.0, 1.0)
            lengths = ops.sqrt(threat_model.per_position(ops.square((moved - x) / width)))
            keep = threat_model.spread(lengths >= ops.expand_dims(threshold, -1), x)
            return ops.where(keep, moved, x), (adam, threshold)

        threshold = ops.full(ops.shape(x)[:1], self.threshold, dtype="float32")
        memory = (Adam.empty(x), threshold)
        return nearest_visited(problem, self.num_steps, judge, move, memory)

    def _slope(self, delta, threat_model):
        """Returns the gradient of the mean of `delta^2 / (delta^2 + sigma)` over the positions."""
        squares = threat_model.per_position(ops.square(delta))
        slope = 2.0 * self.sigma / ops.square(squares + self.sigma) / squares.shape[-1]
        return threat_model.spread(slope, delta) * delta
