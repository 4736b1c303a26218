"""Batched L-BFGS with box constraints: one small problem per example."""

import typing

from keras import ops

from keras_robust import backend
from keras_robust.attacks.result import select
from keras_robust.threat_models.threat_model import per_example

_MEMORY = 6
_SUFFICIENT = 1e-4  # The share of the linearly predicted decrease to achieve (Armijo).
_NOISE = 1e-6  # The relative rounding error of a value in float32.
_AT_REST = 1e-6  # A step shorter than this share of the point counts as no step.
_SHORTEST_STEP = 1e-6
_TINY = 1e-20


class _State(typing.NamedTuple):
    """The state of the loop, with one entry per example.

    In `steps` and `gradient_differences` the examples are on the second axis.
    """

    x: object
    value: object
    gradient: object
    steps: object  # Differences of points, the latest first.
    gradient_differences: object  # Differences of gradients.
    direction: object
    length: object
    done: object
    calls: object


def minimise(function, x, low, high, *, num_steps, done):
    """Returns the minima that L-BFGS finds from `x`, and the number of calls of each example.

    The quasi-Newton direction is computed in the coordinates that no bound stops. The step along it
    is clipped to the box, and shortened until the value falls far enough. One pass through the loop
    calls `function` once for all examples. Examples that have converged wait for the others.

    Args:
        function: callable `x -> (values, gradients)`, of shapes `(batch_size,)` and that of `x`.
        x: float tensor `(batch_size, ...)` in the box.
        low: lower bounds, which broadcast against `x`.
        high: upper bounds, which broadcast against `x`.
        num_steps: int, the maximal number of calls of `function` after the first.
        done: bool tensor `(batch_size,)`, the examples to return unchanged.
    """

    def body(state):
        point = ops.clip(state.x + per_example(state.length, x) * state.direction, low, high)
        return (_advance(state, point, *function(point), low, high),)

    value, gradient = function(x)
    nothing = ops.stack([ops.zeros_like(x)] * _MEMORY)
    direction = -_clip_length(gradient * _free(x, gradient, low, high))
    at_rest = _dot(direction, gradient) >= 0.0
    length = ops.ones_like(value)
    calls = ops.where(done, 0, ops.ones_like(done, dtype="int32"))
    done = done | at_rest
    state = _State(x, value, gradient, nothing, nothing, direction, length, done, calls)
    (last,) = backend.while_loop(
        lambda state: ops.logical_not(ops.all(state.done)),
        body,
        (state,),
        maximum_iterations=num_steps,
    )
    return last.x, last.calls


def _advance(state, point, value, gradient, low, high):
    """Returns the state moved to `point` if the value is low enough, else with a shorter step."""
    moved, gradient_difference = point - state.x, gradient - state.gradient
    slope = _dot(state.gradient, moved)
    accepts = value <= state.value + _SUFFICIENT * slope + _NOISE * ops.abs(state.value)
    accepts = accepts & ~state.done
    # Only pairs with positive curvature guarantee a descent direction.
    keeps = accepts & (_dot(moved, gradient_difference) > _TINY)
    steps, gradient_differences = (
        _push(moved, state.steps, keeps),
        _push(gradient_difference, state.gradient_differences, keeps),
    )
    x = select(accepts, point, state.x)
    new_gradient = select(accepts, gradient, state.gradient)
    direction = _direction(
        new_gradient, steps, gradient_differences, _free(x, new_gradient, low, high)
    )
    moves = _dot(moved, moved) > _AT_REST**2 * _dot(point, point)
    goes_on = ops.where(
        accepts, moves & (_dot(direction, new_gradient) < 0.0), state.length > _SHORTEST_STEP
    )
    # The next length is the minimum of the parabola through both values and the slope, kept between
    # 0.1 and 0.5 of the old length.
    excess = ops.where(ops.isfinite(value), value, 3e38) - state.value - slope
    shorter = state.length * ops.clip(-0.5 * slope / ops.maximum(excess, _TINY), 0.1, 0.5)
    return _State(
        x=x,
        value=ops.where(accepts, value, state.value),
        gradient=new_gradient,
        steps=steps,
        gradient_differences=gradient_differences,
        direction=direction,
        length=ops.where(accepts, ops.ones_like(shorter), shorter),
        done=state.done | ~goes_on,
        calls=state.calls + ops.cast(~state.done, "int32"),
    )


def _direction(gradient, steps, gradient_differences, free):
    """Returns the direction of the two-loop recursion in the free coordinates.

    Where that direction does not descend, the negative gradient replaces it.
    """
    steps, gradient_differences, ascent = steps * free, gradient_differences * free, gradient * free
    products = [_dot(steps[i], gradient_differences[i]) for i in range(_MEMORY)]
    inverse = [ops.where(p > _TINY, 1.0 / ops.maximum(p, _TINY), 0.0) for p in products]
    vector, shares = ascent, []
    for i in range(_MEMORY):
        shares.append(inverse[i] * _dot(steps[i], vector))
        vector = vector - per_example(shares[i], vector) * gradient_differences[i]
    # The first inverse Hessian is a multiple of the identity, `s.y / y.y` (Nocedal and Wright).
    curvature = per_example(
        _dot(gradient_differences[0], gradient_differences[0]) * inverse[0], vector
    )
    vector = ops.where(
        curvature > 0.0, vector / ops.maximum(curvature, _TINY), _clip_length(vector)
    )
    for i in reversed(range(_MEMORY)):
        change = shares[i] - inverse[i] * _dot(gradient_differences[i], vector)
        vector = vector + per_example(change, vector) * steps[i]
    descends = _dot(vector, ascent) > _TINY
    return -select(descends, vector, _clip_length(ascent)) * free


def _clip_length(vector):
    """Returns the vector scaled to a length of at most 1."""
    return vector / per_example(ops.maximum(ops.sqrt(_dot(vector, vector)), 1.0), vector)


def _free(x, gradient, low, high):
    """Returns 1 for coordinates that may follow the negative gradient, 0 for those at a bound."""
    stopped = ((x <= low) & (gradient > 0.0)) | ((x >= high) & (gradient < 0.0))
    return 1.0 - ops.cast(stopped, x.dtype)


def _push(latest, pairs, keeps):
    """Returns `pairs` with `latest` in front and without the oldest, where `keeps` is true."""
    pushed = ops.concatenate([ops.expand_dims(latest, 0), pairs[:-1]], axis=0)
    return ops.where(per_example(keeps, latest), pushed, pairs)


def _dot(first, second):
    return ops.sum(first * second, axis=tuple(range(1, len(first.shape))))
