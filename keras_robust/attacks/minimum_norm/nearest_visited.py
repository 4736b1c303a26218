"""The loop of the searches that walk across the boundary and keep the nearest mistake."""

import typing

import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import select


class Visit(typing.NamedTuple):
    """What a search knows at a point, with one entry per example.

    Fields: `x_adv`, the point; `value`, `success` and `gradient`, as `judge` returns them;
    `distance`, from the clean example; `nearest`, the distance of the nearest mistake so far, this
    point included, or infinity.
    """

    x_adv: object
    value: object
    success: object
    gradient: object
    distance: object
    nearest: object


class _State(typing.NamedTuple):
    """The state of the loop, with one entry per example, except in the memory of the search."""

    x_adv: object
    best: object
    distance: object  # The distance of `best`, infinity without one.
    zero_gradient: object
    memory: object


def nearest_visited(problem, num_steps, judge, move, memory):
    """Returns `AttackResult` with the nearest mistake among the points that a search visits.

    The search starts at the example, and judges the last point as well.

    Args:
        problem: a `SearchProblem`.
        num_steps: int, the number of moves.
        judge: function `x_adv -> (value, success), gradient`, which costs one attack pass.
        move: function `(step, visit, memory) -> x_adv, memory` with the next point. `step` is int
            or int32 `()`, from 0, and `visit` is a `Visit`.
        memory: what `move` gets at the first step.
    """
    x, threat_model = problem.x, problem.threat_model

    def look(state):
        (value, success), gradient = judge(state.x_adv)
        distance = threat_model.distance(state.x_adv, x)
        nearer = ops.logical_and(success, distance < state.distance)
        state = state._replace(
            best=select(nearer, state.x_adv, state.best),
            distance=ops.where(nearer, distance, state.distance),
        )
        return state, Visit(state.x_adv, value, success, gradient, distance, state.distance)

    def body(step, state):
        state, visit = look(state)
        x_adv, memory = move(step, visit, state.memory)
        flat = ops.logical_and(state.zero_gradient, zero_gradient(visit.gradient))
        return state._replace(x_adv=ops.stop_gradient(x_adv), zero_gradient=flat, memory=memory)

    infinity = ops.full(ops.shape(x)[:1], np.inf, dtype="float32")
    start = _State(x, x, infinity, ops.ones_like(infinity, dtype="bool"), memory)
    last, _ = look(backend.repeat(num_steps, body, start))
    return AttackResult(
        x_adv=last.best,
        loss=-last.distance,
        success=ops.isfinite(last.distance),
        # At a mistake the loss of a hinge is flat, which hides no gradient.
        zero_gradient=ops.logical_and(last.zero_gradient, last.distance > 0.0),
        queries=counted(ops.shape(x)[:1], 2 * num_steps + 2),
    )


def cosine(first, share, num_steps):
    """Returns `num_steps` numbers that fall from `first` towards `share * first`, float32."""
    fall = 0.5 * (1.0 + np.cos(np.pi * np.arange(num_steps) / num_steps))
    return ops.convert_to_tensor(first * (share + (1.0 - share) * fall), dtype="float32")


def farthest_distance(x, threat_model):
    """Returns the distance from `x` to the farthest corner of the box."""
    low, high = threat_model.bounds or (-np.inf, np.inf)
    zero = ops.zeros_like(x)
    corner = ops.where(x - low > high - x, low + zero, high + zero)
    return threat_model.distance(corner, x)


def width_of_box(threat_model):
    """Returns the mean width of the box over the coordinates that have one, or 1.0 without any."""
    widths = np.subtract(*reversed(threat_model.bounds or (-np.inf, np.inf)))
    finite = np.isfinite(widths) & (widths > 0.0)
    return float(np.mean(widths[finite])) if np.any(finite) else 1.0
