"""Models that end in a softmax."""

import keras

from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.keras_internals import output_layer


def ends_in_softmax(model):
    """Returns whether the logits that Keras knows are those of a softmax, not of a sigmoid.

    The last layer decides. In a model that is not a graph of layers, there must be a layer with a
    softmax, and none with a sigmoid.
    """
    layer = output_layer(model)
    if layer is not None:
        return _makes_softmax(layer)
    layers = layers_of(model)
    has_sigmoid = any(_activation(one) is keras.activations.sigmoid for one in layers)
    return not has_sigmoid and any(map(_makes_softmax, layers))


def _makes_softmax(layer):
    return isinstance(layer, keras.layers.Softmax) or (
        _activation(layer) is keras.activations.softmax
    )


def _activation(layer):
    activation = getattr(layer, "activation", None)
    # While another thread records logits on JAX, the activation is wrapped.
    return getattr(activation, "function", activation)
