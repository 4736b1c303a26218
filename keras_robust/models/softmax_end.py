"""Whether a model ends in a softmax."""

import keras

from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.keras_internals import output_layer


def ends_in_softmax(model):
    """Whether what Keras knows the logits of, in what a model puts out, is of a softmax.

    Keras keeps the logits behind a sigmoid too. The last layer tells, and where there is no graph
    in which to find it, that the model has layers with a softmax and none with a sigmoid.
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
    return getattr(layer, "activation", None)
