"""The shortest step over a hyperplane, inside a box."""

from keras import ops

from keras_robust import backend
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

_NEWTON_STEPS = 12
FAR = 1e30  # Stands for infinity, which times a rate of 0 would be NaN.
_TINY = 1e-30  # With a smaller slope no coordinate can move further, and the division may overflow.


def hyperplane_step(x, gradient, change, room, rate):
    """Returns `sign * min(t * rate, room)` with the `t` that changes `<gradient, x>` by `change`.

    The change of `<gradient, x>` is a concave, piecewise linear function of `t`, so that Newton's
    method from `t = 0` approaches the root from below and never passes it. Gradients of any size
    in float32 are supported.

    Args:
        x: as in `ThreatModel.project_onto_hyperplane`.
        gradient: as in `ThreatModel.project_onto_hyperplane`.
        change: as in `ThreatModel.project_onto_hyperplane`.
        room: float tensor like `x`, how far each coordinate can move in the direction of the step.
        rate: float tensor like `x`, >= 0, how far each coordinate moves per unit of `t`.
    """
    # Divide by the largest entries, because products of tiny or huge entries leave the range of
    # float32.
    largest = largest_of(ops.abs(gradient))
    size = flatten(ops.abs(gradient)) / largest
    rate, room = flatten(rate) / largest_of(rate), flatten(room)
    wanted = ops.expand_dims(ops.abs(change), -1) / largest

    def improve(_, t):
        reached = ops.sum(size * ops.minimum(t * rate, room), axis=-1, keepdims=True)
        slope = ops.sum(ops.where(t * rate < room, size * rate, 0.0), axis=-1, keepdims=True)
        more = ops.maximum(wanted - reached, 0.0) / ops.maximum(slope, _TINY)
        return ops.where(slope > _TINY, ops.minimum(t + more, FAR), FAR)

    t = backend.fori_loop(0, _NEWTON_STEPS, improve, ops.zeros_like(wanted))
    step = ops.reshape(ops.minimum(t * rate, room), ops.shape(x))
    return step * ops.sign(gradient) * per_example(ops.sign(change), x)


def largest_of(values):
    """Returns the largest value of each example, `(batch_size, 1)`, or 1 if all are 0."""
    largest = ops.max(flatten(values), axis=-1, keepdims=True)
    return ops.where(largest > 0.0, largest, 1.0)
