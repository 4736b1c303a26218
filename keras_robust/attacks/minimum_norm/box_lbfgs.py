"""L-BFGS inside a box: many small problems at once, one for each example."""

import typing

from keras import ops

from keras_robust import backend
from keras_robust.attacks.result import select
from keras_robust.threat_models.threat_model import per_example

_MEMORY = 6
_SUFFICIENT = 1e-4  # Of the decrease that the slope promises (Armijo).
_NOISE = 1e-6  # Relative, of a value in float32.
_AT_REST = 1e-6  # A step of this share of the point is none.
_SHORTEST_STEP = 1e-6
_TINY = 1e-20


class _State(typing.NamedTuple):
    """What the loop carries, one entry per example.

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
    """Returns the points to which L-BFGS leads from `x`, and how many calls each took.

    The quasi-Newton direction is that in the coordinates which no bound stops; the step along it is
    cut off by the box, and shortened until the value falls far enough. One pass through the loop is
    one call of `function` for all examples; one that has come to rest waits for the others.

    Args:
        function: callable `x -> (values, gradients)`, of shapes `(batch_size,)` and that of `x`.
        x: float tensor `(batch_size, ...)` in the box.
        low: lower bounds, which broadcast against `x`.
        high: upper bounds, likewise.
        num_steps: int, calls of `function` after the first at most.
        done: bool tensor `(batch_size,)`, examples that are left as they are.
    """

    def body(state):
        point = ops.clip(state.x + per_example(state.length, x) * state.direction, low, high)
        return (_advance(state, point, *function(point), low, high),)

    value, gradient = function(x)
    nothing = ops.stack([ops.zeros_like(x)] * _MEMORY)
    direction = -_short(gradient * _free(x, gradient, low, high))
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
    """Takes in the value at `point`: goes there, or makes the next step shorter."""
    moved, bend = point - state.x, gradient - state.gradient
    slope = _dot(state.gradient, moved)
    accepts = value <= state.value + _SUFFICIENT * slope + _NOISE * ops.abs(state.value)
    accepts = accepts & ~state.done
    # Only a pair of positive curvature keeps the direction one of descent.
    keeps = accepts & (_dot(moved, bend) > _TINY)
    steps, gradient_differences = (
        _push(moved, state.steps, keeps),
        _push(bend, state.gradient_differences, keeps),
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
    # To the minimum of the parabola through both values and the slope, within reason.
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
    """The two-loop recursion in the free coordinates, or their gradient where it fails."""
    steps, gradient_differences, ascent = steps * free, gradient_differences * free, gradient * free
    products = [_dot(steps[i], gradient_differences[i]) for i in range(_MEMORY)]
    inverse = [ops.where(p > _TINY, 1.0 / ops.maximum(p, _TINY), 0.0) for p in products]
    vector, shares = ascent, []
    for i in range(_MEMORY):
        shares.append(inverse[i] * _dot(steps[i], vector))
        vector = vector - per_example(shares[i], vector) * gradient_differences[i]
    curvature = per_example(
        _dot(gradient_differences[0], gradient_differences[0]) * inverse[0], vector
    )
    vector = ops.where(curvature > 0.0, vector / ops.maximum(curvature, _TINY), _short(vector))
    for i in reversed(range(_MEMORY)):
        change = shares[i] - inverse[i] * _dot(gradient_differences[i], vector)
        vector = vector + per_example(change, vector) * steps[i]
    descends = _dot(vector, ascent) > _TINY
    return -select(descends, vector, _short(ascent)) * free


def _short(vector):
    """Returns a vector of length 1 at most."""
    return vector / per_example(ops.maximum(ops.sqrt(_dot(vector, vector)), 1.0), vector)


def _free(x, gradient, low, high):
    """1 for the coordinates that may follow the negative gradient, 0 for those at a bound."""
    stopped = ((x <= low) & (gradient > 0.0)) | ((x >= high) & (gradient < 0.0))
    return 1.0 - ops.cast(stopped, x.dtype)


def _push(latest, pairs, keeps):
    """Puts `latest` in front, and drops the oldest, for the examples that keep it."""
    pushed = ops.concatenate([ops.expand_dims(latest, 0), pairs[:-1]], axis=0)
    return ops.where(per_example(keeps, latest), pushed, pairs)


def _dot(first, second):
    return ops.sum(first * second, axis=tuple(range(1, len(first.shape))))
