"""The boundary attack: a random walk along the boundary towards the example."""

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

# Every tenth step tells how the steps fare; so many of those steps are looked back on.
_BLOCK = 10
_ORTHOGONAL_WINDOW = 100
_SOURCE_WINDOW = 30
_ADAPTATION = 1.5
_CONVERGED = 1e-7
_UNKNOWN = -1.0
_TINY = 1e-12


class _State(typing.NamedTuple):
    """What the loop carries, with one entry per example."""

    x_adv: object
    orthogonal_step: object
    source_step: object
    orthogonal_hits: object  # 1 or 0 for each of the last steps, or `_UNKNOWN`.
    source_hits: object
    queries: object


@keras.saving.register_keras_serializable(package="keras_robust")
class Boundary(MinimumNormAttack):
    """A random walk along the boundary of the wrong classes, towards the example.

    From a wrong point at distance `r`, a random step of length `orthogonal_step r` along the sphere
    around `x`, then one of length `source_step r` towards `x`; the new point is kept if it is wrong
    and nearer. The orthogonal step grows by half where more than 50% of the steps along the sphere
    end in wrong points, and shrinks where fewer than 20% do, and the step towards `x` with it; that
    grows where more than 25% of the new points are wrong, and shrinks below 10%. An example is done
    when its `source_step` falls below 1e-7. The first of the attacks that look at nothing but the
    class that the model decides for; it works whatever the model does to its gradients or logits.
    Slower than `HopSkipJump`: for a convolutional network on 8x8 digits it takes some 5,000 queries
    to come as near as that does in 1,000 to 2,000, and ends as near, with and without restarts.

    The walk starts at uniform draws from the box until one is wrong, halfway back to the boundary.
    If none of `num_starts` is, the example stays as it is, without success.

    Deviations from the authors' code: the start is found by bisection, where they try mixtures of
    noise and example one after the other; every example has random numbers and step sizes of its
    own; no targets. As in foolbox, every tenth step is looked at for the step sizes, and kept for
    the last 100 and 30 of those; both windows start anew after a change.

    Cost: 1.1 forward passes a step, those for the start, and 13 back to the boundary. BatchNorm
    statistics see none of it.

    Args:
        num_steps: int >= 1. Defaults to `25000`.
        orthogonal_step: float > 0, the first step along the sphere, in distances to `x`. Defaults
            to `0.01`.
        source_step: float > 0, the first step towards `x`, in distances. Defaults to `0.01`.
        num_restarts: int >= 1, walks from other starts, of which the nearest mistake counts.
            Defaults to `1`.
        num_starts: int >= 1, draws for a first mistake at most. Defaults to `1000`.

    Raises:
        ValueError: for arguments out of range, for a threat model that is not a plain `L2` or has
            no bounds, and for a model that is no classifier.

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

    def nearest(self, classifier, x, y, threat_model, seed, restart):
        check_supported(self, threat_model, (L2,))
        decisions = DecisionOracle(classifier, x, y, threat_model.bounds)
        start = initial_adversarial(decisions, x, seed, self.num_starts)
        shape = (ops.shape(x)[0], _BLOCK, *x.shape[1:])

        def block(number, state):
            # Random numbers for ten steps at once: drawing for one example at a time is slow.
            noise = backend.normal(shape, numbered(seed, self.num_starts + number))

            def walk(i, state, is_looked_at=False):
                active = start.found & (state.source_step >= _CONVERGED)
                active = active & (number * _BLOCK + i < self.num_steps)
                own = ops.take(noise, i, axis=1)
                return _walk(decisions, x, state, own, active, is_looked_at)

            state = backend.fori_loop(0, _BLOCK - 1, walk, state)
            return number + 1, walk(_BLOCK - 1, state, is_looked_at=True)

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


def _walk(decisions, x, state, noise, active, is_looked_at):
    """Tries one step of the walk; with `is_looked_at`, the step sizes learn from it."""
    around, point = _propose(decisions, x, state, noise)
    wrong = decisions.wrong(point)
    nearer = _norm(point - x) < _norm(state.x_adv - x)
    x_adv = select(active & wrong & nearer, point, state.x_adv)
    asked = ops.cast(active, "int32")
    moved = state._replace(x_adv=x_adv, queries=state.queries + asked * (2 if is_looked_at else 1))
    if not is_looked_at:
        return moved
    adapted = _adapt(moved, decisions.wrong(around), wrong)
    return _State(*(select(active, new, old) for new, old in zip(adapted, moved, strict=True)))


def _propose(decisions, x, state, noise):
    """Returns the point beside, on the sphere around `x`, and from there the one nearer to `x`."""
    away = state.x_adv - x
    distance = _norm(away)
    unit = away / per_example(ops.maximum(distance, _TINY), x)
    noise = noise - per_example(ops.sum(flatten(noise * unit), axis=-1), x) * unit
    length = state.orthogonal_step * distance / ops.maximum(_norm(noise), _TINY)
    beside = away + per_example(length, x) * noise
    beside = beside / per_example(ops.sqrt(1.0 + ops.square(state.orthogonal_step)), x)
    around = decisions.clip(x + beside)
    reached = _norm(around - x)
    # The clip may have left the sphere already.
    wanted = ops.maximum(reached - (1.0 - state.source_step) * distance, 0.0)
    share = 1.0 - wanted / ops.maximum(reached, _TINY)
    return around, decisions.clip(x + per_example(share, x) * (around - x))


def _adapt(state, around_is_wrong, point_is_wrong):
    """Returns the state with the step sizes that the last steps ask for."""
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
    """Returns the window with one more entry, and without its oldest."""
    newest = ops.expand_dims(ops.cast(hit, "float32"), 1)
    return ops.concatenate([newest, hits[:, :-1]], axis=1)


def _factor(hits, low, high):
    """Returns what to multiply a step by: 1 until the window is full."""
    is_full = hits[:, -1] != _UNKNOWN
    # Counts are exact, shares are not where XLA multiplies by the reciprocal.
    count, size = ops.sum(hits, axis=1), hits.shape[1]
    once = ops.ones_like(count)
    factor = ops.where(count > high * size, _ADAPTATION, once)
    factor = ops.where(count < low * size, 1.0 / _ADAPTATION, factor)
    return ops.where(is_full, factor, 1.0)


def _norm(delta):
    return normalised(delta)[1]
