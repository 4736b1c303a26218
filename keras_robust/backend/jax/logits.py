"""JAX: records the logits behind probabilities in traced code, where Keras cannot store them."""

import contextlib

import jax
import keras

from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.keras_internals import set_keras_logits
from keras_robust.backend.patched import patched

_ACTIVATIONS = (keras.activations.softmax, keras.activations.sigmoid)
# On JAX these layers return their input itself if its shape does not change, and with it the
# recorded logits. On TensorFlow they return a new tensor, without logits.
_RESHAPING = (keras.layers.Flatten, keras.layers.Permute, keras.layers.Reshape)


@contextlib.contextmanager
def record_logits(model):
    """Makes `keras_logits` find the inputs of every softmax and sigmoid in Keras layers.

    Keras stores the logits as an attribute of the outputs of its activations, which tracers do not
    support. Activations are found in layers, such as `Dense` and `Softmax`, but not where a model
    calls them itself. The layers change only inside the context; other threads that run them
    meanwhile get the same outputs.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers_of(model):
            for name, make in _changes(layer):
                stack.enter_context(patched(layer, name, make))
        yield


def _changes(layer):
    """Yields pairs of the name of an attribute of a layer, and the `make` of its replacement."""
    activation, call = vars(layer).get("activation"), vars(layer).get("call")
    # An attribute that another user of this context has replaced counts too: with one more user the
    # replacement lasts until both contexts have ended.
    if isinstance(activation, _Recording) or any(activation is one for one in _ACTIVATIONS):
        yield "activation", _recording_activation
    if call is None or isinstance(call, (_Recording, _Copying)):
        if isinstance(layer, keras.layers.Softmax):
            yield "call", _recording_call
        elif isinstance(layer, _RESHAPING):
            yield "call", _copying_call


class _Recording:
    """An activation, or the call of a `Softmax`, that also stores the logits of its outputs."""

    def __init__(self, function):
        self.function = function

    def __call__(self, inputs, **options):
        outputs = self.function(inputs, **options)
        # A masked softmax changes the logits before it normalizes them.
        if options.get("mask") is None:
            set_keras_logits(outputs, inputs)
        return outputs


class _Copying:
    """A layer call that never returns its input itself."""

    def __init__(self, function):
        self.function = function

    def __call__(self, inputs, **options):
        outputs = self.function(inputs, **options)
        return jax.numpy.array(outputs) if outputs is inputs else outputs


def _recording_activation(layer):
    return _Recording(layer.activation)


def _recording_call(layer):
    return _Recording(layer.call)


def _copying_call(layer):
    return _Copying(layer.call)
