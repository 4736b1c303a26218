"""Bounds of activations for interval bound propagation."""

import keras
from keras import ops

from keras_robust.certification.graph import refuse_activation
from keras_robust.certification.interval_bounds import IntervalBounds

_activations = keras.activations

# gelu, silu and mish are not among them: they decrease on some negative inputs.
_INCREASING = {
    function.__name__: function
    for function in (
        _activations.celu,
        _activations.elu,
        _activations.exponential,
        _activations.hard_sigmoid,
        _activations.hard_tanh,
        _activations.leaky_relu,
        _activations.linear,
        _activations.log_sigmoid,
        _activations.relu,
        _activations.relu6,
        _activations.selu,
        _activations.sigmoid,
        _activations.softplus,
        _activations.softsign,
        _activations.tanh,
    )
}


def activate(layer, function, box):
    """Returns the box after an activation."""
    if function is _activations.softmax:
        return softmax_bounds(box)
    # Functions are compared by identity, because a custom function may have a name of Keras.
    if function not in _INCREASING.values():
        refuse_activation(layer, function, "interval bound", [*_INCREASING, "softmax"])
    if function is _activations.linear:
        return box
    # The bounds of margins need the box in front of a final sigmoid.
    logits = box if function is _activations.sigmoid else None
    if function is _activations.tanh:
        function = _tanh
    return IntervalBounds(function(box.lower), function(box.upper), logits=logits)


def _tanh(x):
    """Returns tanh in the dtype of `x`, because Keras computes it in float32 on JAX."""
    if keras.backend.standardize_dtype(x.dtype) == "float64":
        return 2.0 * ops.sigmoid(2.0 * x) - 1.0
    return ops.tanh(x)


def softmax_bounds(box):
    """Returns the box of a softmax.

    Each probability is lowest where its own logit is lowest and all other logits are highest.
    """
    lower, upper = ops.expand_dims(box.lower, -1), ops.expand_dims(box.upper, -1)
    own = ops.eye(box.lower.shape[-1], dtype=box.lower.dtype)

    def probability(mine, others):
        mixed = ops.swapaxes(own * mine + (1.0 - own) * others, -1, -2)
        return ops.sum(own * ops.softmax(mixed, axis=-1), axis=-1)

    return IntervalBounds(probability(lower, upper), probability(upper, lower), logits=box)
