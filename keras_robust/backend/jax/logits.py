"""JAX: recorded logits behind probabilities in traced code, where Keras cannot store them."""

import contextlib
import threading

import jax
import keras

from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.keras_internals import set_keras_logits

_ACTIVATIONS = (keras.activations.softmax, keras.activations.sigmoid)
# On JAX these layers return their input itself if its shape does not change, and with it the
# recorded logits. On TensorFlow they return a new tensor, without logits.
_RESHAPING = (keras.layers.Flatten, keras.layers.Permute, keras.layers.Reshape)
# Recording changes attributes of the layers, so that other threads must wait.
_LOCK = threading.RLock()


@contextlib.contextmanager
def record_logits(model):
    """Makes `keras_logits` find the inputs of every softmax and sigmoid in Keras layers.

    Keras stores the logits as an attribute of the outputs of its activations, which tracers do not
    support. Activations that a model calls outside of a layer, such as `Dense` or `Softmax`, are
    not found. The layers change only inside the context.
    """
    with _LOCK, contextlib.ExitStack() as stack:
        for layer in layers_of(model):
            for name, function in _changes(layer):
                stack.callback(_put_back, vars(layer), name, vars(layer).get(name))
                vars(layer)[name] = function
        yield


def _changes(layer):
    """Yields pairs of the name of an attribute of a layer, and the function to put there."""
    attributes = vars(layer)
    if any(attributes.get("activation") is one for one in _ACTIVATIONS):
        yield "activation", _recording(layer.activation)
    if "call" not in attributes:
        if isinstance(layer, keras.layers.Softmax):
            yield "call", _recording(layer.call)
        elif isinstance(layer, _RESHAPING):
            yield "call", _copying(layer.call)


def _put_back(attributes, name, value):
    del attributes[name]
    if value is not None:
        attributes[name] = value


def _recording(function):
    """Returns an activation that also stores its inputs as the logits of its outputs."""

    def recording(inputs, **options):
        outputs = function(inputs, **options)
        # A masked softmax changes the logits before it normalizes them.
        if options.get("mask") is None:
            set_keras_logits(outputs, inputs)
        return outputs

    return recording


def _copying(function):
    """Returns a layer call that never returns its input itself."""

    def copying(inputs, **options):
        outputs = function(inputs, **options)
        return jax.numpy.array(outputs) if outputs is inputs else outputs

    return copying
