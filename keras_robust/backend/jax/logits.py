"""JAX: finds the logits behind probabilities in traced code, where Keras cannot keep them."""

import contextlib
import threading

import jax
import keras

from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.keras_internals import set_keras_logits

_ACTIVATIONS = (keras.activations.softmax, keras.activations.sigmoid)
# On JAX they return their very input where its shape stays, and with it the logits behind it, of
# which neither TensorFlow nor a certificate knows anything.
_RESHAPING = (keras.layers.Flatten, keras.layers.Permute, keras.layers.Reshape)
# Layers are changed for as long as somebody is within: calls in other threads wait.
_LOCK = threading.RLock()


@contextlib.contextmanager
def record_logits(model):
    """Within, `keras_logits` knows what went into every softmax and sigmoid of Keras layers.

    Keras sets an attribute of what its activations return, and tracers take none. Those that a
    model calls by itself, outside of a layer such as `Dense` or `Softmax`, are not found.
    """
    with _LOCK, contextlib.ExitStack() as stack:
        for layer in layers_of(model):
            for name, function in _changes(layer):
                stack.callback(_put_back, vars(layer), name, vars(layer).get(name))
                vars(layer)[name] = function
        yield


def _changes(layer):
    """Yields the attribute to change of a layer, and the function that belongs there."""
    attributes = vars(layer)
    if any(attributes.get("activation") is one for one in _ACTIVATIONS):
        yield "activation", _noting(layer.activation)
    if "call" not in attributes:
        if isinstance(layer, keras.layers.Softmax):
            yield "call", _noting(layer.call)
        elif isinstance(layer, _RESHAPING):
            yield "call", _apart(layer.call)


def _put_back(attributes, name, value):
    del attributes[name]
    if value is not None:
        attributes[name] = value


def _noting(function):
    def noting(inputs, **options):
        outputs = function(inputs, **options)
        if options.get("mask") is None:
            set_keras_logits(outputs, inputs)
        return outputs

    return noting


def _apart(function):
    def apart(inputs, **options):
        outputs = function(inputs, **options)
        return jax.numpy.array(outputs) if outputs is inputs else outputs

    return apart
