"""The boundary attack: a random walk along the decision boundary towards the example."""

import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.decision_based.decision_oracle import DecisionOracle
from keras_robust.attacks.decision_based.decision_oracle import check_supported
from keras_robust.attacks.decision_based.decision_oracle import initial_adversarial
from keras_robust.attacks.decision_based.decision_oracle import numbered
from keras_robust.attacks.minimum_norm.minimum_norm_attack import NEVER
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import select
from keras_robust.threat_models.l2 import L2
from keras_robust.threat_models.lengths import normalised
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

# Every tenth step adapts the step sizes, from success rates over windows of such steps.
_BLOCK = 10
_ORTHOGONAL_WINDOW = 100
_SOURCE_WINDOW = 30
# The factor and the end of the search are those of foolbox.
_ADAPTATION = 1.5
_CONVERGED = 1e-7
_UNKNOWN = -1.0
_TINY = 1e-12


class _State(typing.NamedTuple):
    """The state of the loop, with one entry per example."""

    x_adv: object
    orthogonal_step: object
    source_step: object
    orthogonal_hits: object  # 1 or 0 for each of the last steps, or `_UNKNOWN`.
    source_hits: object
    queries: object


@keras.saving.register_keras_serializable(package="keras_robust")
class Boundary(MinimumNormAttack):
    """A random walk along the boundary of the wrong classes, towards the example.

    From a misclassified point at distance `r`, the attack takes a random step of length
    `orthogonal_step r` along the sphere around `x`, then a step of length `source_step r` towards
    `x`. It keeps the new point if it is misclassified and nearer. If more than 50% of the steps
    along the sphere end in misclassified points, both step sizes grow by half; if fewer than 20%
    do, both shrink. The step towards `x` also grows if more than 25% of the new points are
    misclassified, and shrinks below 10%. An example is done when its `source_step` falls below
    1e-7. The boundary attack was the first that uses only the predicted class, so that it works
    whatever the model does to its gradients or logits. It is slower than `HopSkipJump`: for a
    convolutional network on 8x8 digits it takes some 5,000 queries to reach the distance that
    `HopSkipJump` reaches in 1,000 to 2,000. Both end at the same distance, with and without
    restarts.

    To start, points are drawn uniformly from the box until one is misclassified; a bisection then
    moves it back to the boundary. If none of `num_starts` points is misclassified, the example is
    returned unchanged, without success.

    Deviations from the authors' code: the start is found by bisection, whereas they try mixtures of
    noise and example one after the other; every example has its own random numbers and step sizes;
    there are no targets. As in foolbox, every tenth step is recorded to adapt the step sizes, over
    windows of the last 100 and 30 recorded steps; a window is emptied after a change.

    Cost: 1.1 forward passes per step, those for the start, and 13 to move the result back to the
    boundary. BatchNorm statistics are not updated.

    Args:
        num_steps: int >= 1, the number of steps. Defaults to `25000`.
        orthogonal_step: float > 0, the first step along the sphere, as a share of the distance to
            `x`. Defaults to `0.01`.
        source_step: float > 0, the first step towards `x`, as a share of the distance to `x`.
            Defaults to `0.01`.
        num_restarts: int >= 1, the number of walks from different starts. The nearest mistake of
            all walks is the result. Defaults to `1`.
        num_starts: int >= 1, the maximal number of draws for the first mistake. Defaults to `1000`.

    Raises:
        ValueError: for arguments out of range, for a threat model that is not a plain `L2` or has
            no bounds, and for a model that is not a classifier.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.6, 0.4]], "float32"), np.array([0])
    >>> attack = kr.attacks.Boundary(num_steps=500, orthogonal_step=0.1)
    >>> def decide(x):
    ...     return keras.ops.one_hot(keras.ops.argmax(x, axis=-1), 2)
    >>> print(np.round(attack(decide, x, y, kr.L2(0.5)), 1))
    [[0.5 0.5]]

    References:
        - [Brendel et al., 2018](https://arxiv.org/abs/1712.04248)
        - [authors' code](https://github.com/bethgelab/foolbox)
    """

    uses_gradients = False
    confidence = None

    def __init__(
        self,
        *,
        num_steps=25000,
        orthogonal_step=0.01,
        source_step=0.01,
        num_restarts=1,
        num_starts=1000,
    ):
        check_counts(num_steps=num_steps, num_restarts=num_restarts, num_starts=num_starts)
        check_numbers(orthogonal_step=orthogonal_step, source_step=source_step)
        self.num_steps = num_steps
        self.orthogonal_step = orthogonal_step
        self.source_step = source_step
        self.num_restarts = num_restarts
        self.num_starts = num_starts

    def nearest(self, problem):
        x, threat_model, seed = problem.x, problem.threat_model, problem.seed
        check_supported(self, threat_model, (L2,))
        decisions = DecisionOracle(problem.classifier, x, problem.y, threat_model.bounds)
        start = initial_adversarial(decisions, x, seed, self.num_starts)
        shape = (ops.shape(x)[0], _BLOCK, *x.shape[1:])

        def block(number, state):
            # Random numbers are drawn for ten steps at once, because drawing per example is slow.
            noise = backend.normal(shape, numbered(seed, self.num_starts + number))

            def walk(i, state, is_recorded=False):
                active = start.found & (state.source_step >= _CONVERGED)
                active = active & (number * _BLOCK + i < self.num_steps)
                step_noise = ops.take(noise, i, axis=1)
                return _walk(decisions, x, state, step_noise, active, is_recorded)

            state = backend.fori_loop(0, _BLOCK - 1, walk, state)
            return number + 1, walk(_BLOCK - 1, state, is_recorded=True)

        def unfinished(number, state):
            going = ops.any(start.found & (state.source_step >= _CONVERGED))
            return ops.logical_and(number * _BLOCK < self.num_steps, going)

        ones = ops.ones(ops.shape(x)[:1], "float32")
        unknown = per_example(_UNKNOWN * ones, ops.zeros((1, 1), "float32"))
        state = _State(
            x_adv=start.x_adv,
            orthogonal_step=self.orthogonal_step * ones,
            source_step=self.source_step * ones,
            orthogonal_hits=ops.repeat(unknown, _ORTHOGONAL_WINDOW, axis=1),
            source_hits=ops.repeat(unknown, _SOURCE_WINDOW, axis=1),
            queries=start.queries + 1,
        )
        _, last = backend.while_loop(unfinished, block, (ops.convert_to_tensor(0, "int32"), state))
        distance = threat_model.distance(last.x_adv, x)
        loss = ops.where(start.found, -distance, -NEVER)
        return AttackResult(
            last.x_adv, loss, start.found, ops.zeros_like(start.found), last.queries
        )


def _walk(decisions, x, state, noise, active, is_recorded):
    """Returns the state after one step; with `is_recorded` the step also adapts the step sizes."""
    around, point = _propose(decisions, x, state, noise)
    wrong = decisions.wrong(point)
    nearer = _norm(point - x) < _norm(state.x_adv - x)
    x_adv = select(active & wrong & nearer, point, state.x_adv)
    asked = ops.cast(active, "int32")
    moved = state._replace(x_adv=x_adv, queries=state.queries + asked * (2 if is_recorded else 1))
    if not is_recorded:
        return moved
    adapted = _adapt(moved, decisions.wrong(around), wrong)
    return _State(*(select(active, new, old) for new, old in zip(adapted, moved, strict=True)))


def _propose(decisions, x, state, noise):
    """Returns a random point on the sphere around `x`, and the point a step nearer to `x`."""
    away = state.x_adv - x
    distance = _norm(away)
    unit = away / per_example(ops.maximum(distance, _TINY), x)
    noise = noise - per_example(ops.sum(flatten(noise * unit), axis=-1), x) * unit
    length = state.orthogonal_step * distance / ops.maximum(_norm(noise), _TINY)
    offset = away + per_example(length, x) * noise
    offset = offset / per_example(ops.sqrt(1.0 + ops.square(state.orthogonal_step)), x)
    around = decisions.clip(x + offset)
    reached = _norm(around - x)
    # Clipping to the box may have moved the point nearer to `x` already.
    wanted = ops.maximum(reached - (1.0 - state.source_step) * distance, 0.0)
    share = 1.0 - wanted / ops.maximum(reached, _TINY)
    return around, decisions.clip(x + per_example(share, x) * (around - x))


def _adapt(state, around_is_wrong, point_is_wrong):
    """Returns the state with step sizes adapted to the success rates of the last steps."""
    hits = _pushed(state.orthogonal_hits, around_is_wrong)
    factor = _factor(hits, 0.2, 0.5)
    orthogonal_step = state.orthogonal_step * factor
    source_step = state.source_step * factor
    orthogonal_hits = select(factor == 1.0, hits, ops.full_like(hits, _UNKNOWN))
    hits = _pushed(state.source_hits, point_is_wrong)
    factor = _factor(hits, 0.1, 0.25)
    return state._replace(
        orthogonal_step=orthogonal_step,
        source_step=source_step * factor,
        orthogonal_hits=orthogonal_hits,
        source_hits=select(factor == 1.0, hits, ops.full_like(hits, _UNKNOWN)),
    )


def _pushed(hits, hit):
    """Returns the window with `hit` in front and without its oldest entry."""
    newest = ops.expand_dims(ops.cast(hit, "float32"), 1)
    return ops.concatenate([newest, hits[:, :-1]], axis=1)


def _factor(hits, low, high):
    """Returns the factor for a step size, which is 1 until the window is full."""
    is_full = hits[:, -1] != _UNKNOWN
    # Counts are compared because they are exact; XLA may compute shares with a rounded reciprocal.
    count, size = ops.sum(hits, axis=1), hits.shape[1]
    once = ops.ones_like(count)
    factor = ops.where(count > high * size, _ADAPTATION, once)
    factor = ops.where(count < low * size, 1.0 / _ADAPTATION, factor)
    return ops.where(is_full, factor, 1.0)


def _norm(delta):
    return normalised(delta)[1]
