"""The fast minimum-norm attack (FMN)."""

import keras
import numpy as np
from keras import ops

from keras_robust import threat_models
from keras_robust.attacks.attack_loss import averaged_gradient
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.attack_loss import check_shares
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.minimum_norm.nearest_visited import cosine
from keras_robust.attacks.minimum_norm.nearest_visited import farthest_distance
from keras_robust.attacks.minimum_norm.nearest_visited import nearest_visited
from keras_robust.attacks.minimum_norm.nearest_visited import width_of_box

_EUCLIDEAN = threat_models.L2()
_LAST_STEP = 1 / 100
_LAST_GAMMA = 1 / 50
_TINY = 1e-30


@keras.saving.register_keras_serializable(package="keras_robust")
class FMN(MinimumNormAttack):
    """Finds the nearest mistake in `L0`, `L1`, `L2` or `Linf`: the fast minimum-norm attack.

    It starts at the example and ascends the margin `l = max_{j != y} z_j - z_y`:
    `delta <- project(delta + alpha g / ||g||_2)`, where `g` is the gradient of `l`. The projection
    is onto a ball whose radius `epsilon` changes as well. At a mistake,
    `epsilon <- min((1 - gamma) epsilon, nearest)`. At other points, once a mistake has been found,
    `epsilon <- (1 + gamma) epsilon`. Before the first mistake, `epsilon` is `1 + gamma` times the
    radius at which a linear model would change its class, `||delta|| + |l| / ||g||_*`, with the
    dual norm. `alpha` falls from `step_size` to a hundredth of it, and `gamma` to a fiftieth of it,
    both along a cosine. The result is the nearest mistake visited. In `L0`, `epsilon` is a count,
    starts at 1, and changes by at least 1.

    One run shows for every radius at once which examples it breaks. It is cheap: each step costs
    one gradient. On smooth models, 100 steps come within a percent or two of the best distance. On
    a convolutional network trained with PGD, `TargetedFAB` finds distances in `Linf` that are a
    third smaller. The distance is no lower bound, and at one fixed radius PGD with restarts or APGD
    is stronger. A zero gradient moves nothing: where `zero_gradient` is true, the distance means
    nothing.

    Deviations from the authors' code: the projection is the nearest point in the intersection of
    ball and box, whereas theirs clips after projecting; the factor `1 + gamma` before the first
    mistake, without which the search on a linear model would end exactly on the boundary and never
    cross it; `step_size` is a share of the width of the box, which is 1 in theirs; the last point
    is evaluated as well; the nearest mistake is moved back to the boundary; a search cannot start
    from a given mistake.

    Cost: `num_steps` attack passes and 1 forward pass, and 13 more to move the result back to the
    boundary. BatchNorm statistics are not updated.

    Args:
        num_steps: int >= 1, the number of steps. Defaults to `100`; the paper uses up to 1000.
        step_size: float > 0, the Euclidean length of the first step, as a share of the width of the
            box, or of 1 without a box. `None` stands for 10 in `Linf`, where a ball is much wider
            than its radius, and for 1 elsewhere. Defaults to `None`.
        gamma: float in (0, 1), the share by which the radius changes at first. Defaults to `0.05`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, and for a model that is not a classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.FMN(num_steps=300)
    >>> x_adv = attack(lambda x: x @ weights + bias, x, y, kr.threat_models.L2(0.5, None))
    >>> print(np.round(x_adv, 2))
    [[0.4 0.3]]

    References:
        - [Pintor et al., 2021](https://arxiv.org/abs/2102.12827)
    """

    def __init__(self, *, num_steps=100, step_size=None, gamma=0.05, targeted=False):
        check_counts(num_steps=num_steps)
        check_shares(gamma=gamma)
        if step_size is not None:
            check_numbers(step_size=step_size)
        check_choice("targeted", targeted, (True, False, "least_likely"))
        self.num_steps = num_steps
        self.step_size = step_size
        self.gamma = gamma
        self.targeted = targeted

    def nearest(self, problem):
        x, threat_model = problem.x, problem.threat_model
        score = make_attack_loss(problem, "margin", self.targeted)
        step_size = self._resolve_step_size(threat_model) * width_of_box(threat_model)
        steps = cosine(step_size, _LAST_STEP, self.num_steps)
        gammas = cosine(self.gamma, _LAST_GAMMA, self.num_steps)
        # No point of the box is farther away than this, so the radius stops there.
        farthest = farthest_distance(x, threat_model)
        resize = _count if isinstance(threat_model, threat_models.L0) else _length

        def judge(x_adv):
            return averaged_gradient(score, x_adv, 1)

        def move(step, visit, radius):
            slope = ops.maximum(threat_model.dual_norm(visit.gradient), _TINY)
            # A linear model would change its class at this distance.
            over = visit.distance + ops.abs(visit.value) / slope
            radius = ops.minimum(resize(visit, radius, ops.take(gammas, step), over), farthest)
            ascent = _EUCLIDEAN.steepest_direction(visit.gradient)
            moved = visit.x_adv + ops.take(steps, step) * ascent
            return threat_model.with_radii(radius, x).project(moved, x), radius

        first = 1.0 if resize is _count else np.inf
        radius = ops.full(ops.shape(x)[:1], first, dtype="float32")
        return nearest_visited(problem, self.num_steps, judge, move, radius)

    def _resolve_step_size(self, threat_model):
        if self.step_size is not None:
            return self.step_size
        return 10.0 if isinstance(threat_model, threat_models.Linf) else 1.0


def _length(visit, radius, gamma, over):
    """Returns the next radius, a length; `over` is where a linear model would change its class."""
    inside = ops.minimum((1.0 - gamma) * radius, visit.nearest)
    outside = (1.0 + gamma) * ops.where(ops.isfinite(visit.nearest), radius, over)
    return ops.where(visit.success, inside, outside)


def _count(visit, radius, gamma, over):
    """Returns the next radius, a number of features: by one, or by the share `gamma`."""
    fewer = ops.minimum(radius - 1.0, ops.floor((1.0 - gamma) * radius))
    more = ops.maximum(radius + 1.0, ops.floor((1.0 + gamma) * radius))
    return ops.where(visit.success, ops.minimum(fewer, visit.nearest), more)
