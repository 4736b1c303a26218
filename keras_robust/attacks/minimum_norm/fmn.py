"""The fast minimum-norm attack (FMN)."""

import math
import numbers
import typing

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import threat_models
from keras_robust.attacks.attack_loss import averaged_gradient
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import select

_EUCLIDEAN = threat_models.L2()
_LAST_STEP = 1 / 100
_LAST_GAMMA = 1 / 50
_TINY = 1e-30


class _State(typing.NamedTuple):
    """The state of the search, with one entry per example."""

    x_adv: object
    radius: object
    best: object
    distance: object  # The distance of `best`, infinity without one.
    zero_gradient: object


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
        for name, value, maximum in (("step_size", step_size, math.inf), ("gamma", gamma, 1.0)):
            if name == "step_size" and value is None:
                continue
            if not isinstance(value, numbers.Real) or not 0.0 < value < maximum:
                raise ValueError(
                    f"Argument `{name}` must be a number > 0 and < {maximum}. Received: {value!r}"
                )
        check_choice("targeted", targeted, (True, False, "least_likely"))
        self.num_steps = num_steps
        self.step_size = step_size
        self.gamma = gamma
        self.targeted = targeted

    def nearest(self, problem):
        x, threat_model = problem.x, problem.threat_model
        score = make_attack_loss(problem, "margin", self.targeted)
        low, high = threat_model.bounds or (-np.inf, np.inf)
        step_size = self._resolve_step_size(threat_model)
        steps = self._cosine(step_size * _width(low, high), _LAST_STEP)
        gammas = self._cosine(self.gamma, _LAST_GAMMA)
        # No point of the box is farther away than this, so the radius stops there.
        farthest = _farthest_distance(x, low, high, threat_model)
        resize = _count if isinstance(threat_model, threat_models.L0) else _length

        def body(step, state):
            (values, success), gradient = averaged_gradient(score, state.x_adv, 1)
            distance = threat_model.distance(state.x_adv, x)
            state = _update_best(state, success, distance)
            slope = ops.maximum(threat_model.dual_norm(gradient), _TINY)
            # A linear model would change its class at this distance.
            over = distance + ops.abs(values) / slope
            radius = ops.minimum(resize(state, success, ops.take(gammas, step), over), farthest)
            moved = state.x_adv + ops.take(steps, step) * _EUCLIDEAN.steepest_direction(gradient)
            return state._replace(
                x_adv=ops.stop_gradient(threat_model.with_radii(radius, x).project(moved, x)),
                radius=radius,
                zero_gradient=ops.logical_and(state.zero_gradient, zero_gradient(gradient)),
            )

        shape = ops.shape(x)[:1]
        infinity = ops.full(shape, np.inf, dtype="float32")
        first = ops.ones(shape, "float32") if resize is _count else infinity
        start = _State(x, first, x, infinity, ops.ones(shape, dtype="bool"))
        last = backend.repeat(self.num_steps, body, start)
        _, success = score(last.x_adv)
        last = _update_best(last, success, threat_model.distance(last.x_adv, x))
        return AttackResult(
            x_adv=last.best,
            loss=-last.distance,
            success=ops.isfinite(last.distance),
            zero_gradient=last.zero_gradient,
            queries=counted(shape, 2 * self.num_steps + 2),
        )

    def _resolve_step_size(self, threat_model):
        if self.step_size is not None:
            return self.step_size
        return 10.0 if isinstance(threat_model, threat_models.Linf) else 1.0

    def _cosine(self, first, share):
        """Returns one number for every step, from `first` down to about `share * first`."""
        fall = 0.5 * (1.0 + np.cos(np.pi * np.arange(self.num_steps) / self.num_steps))
        return ops.convert_to_tensor(first * (share + (1.0 - share) * fall), dtype="float32")


def _farthest_distance(x, low, high, threat_model):
    """Returns the distance from `x` to the farthest corner of the box."""
    zero = ops.zeros_like(x)
    corner = ops.where(x - low > high - x, low + zero, high + zero)
    return threat_model.distance(corner, x)


def _update_best(state, success, distance):
    """Returns the state with the current point as `best` where it is a nearer mistake."""
    nearer = ops.logical_and(success, distance < state.distance)
    return state._replace(
        best=select(nearer, state.x_adv, state.best),
        distance=ops.where(nearer, distance, state.distance),
    )


def _length(state, success, gamma, over):
    """Returns the next radius, a length; `over` is where a linear model would change its class."""
    inside = ops.minimum((1.0 - gamma) * state.radius, state.distance)
    outside = (1.0 + gamma) * ops.where(ops.isfinite(state.distance), state.radius, over)
    return ops.where(success, inside, outside)


def _count(state, success, gamma, over):
    """Returns the next radius, a number of features: by one, or by the share `gamma`."""
    fewer = ops.minimum(state.radius - 1.0, ops.floor((1.0 - gamma) * state.radius))
    more = ops.maximum(state.radius + 1.0, ops.floor((1.0 + gamma) * state.radius))
    return ops.where(success, ops.minimum(fewer, state.distance), more)


def _width(low, high):
    """Returns the mean width of the box over the coordinates that have one."""
    widths = np.subtract(high, low)
    finite = np.isfinite(widths) & (widths > 0.0)
    return float(np.mean(widths[finite])) if np.any(finite) else 1.0
