"""The layers of a model, with those within layers, to which Keras has no public way."""

import keras

# Keras has no public name for a model that is a graph of layers.
from keras.src.models.functional import Functional


def layers_of(model):
    """Returns all layers of a model, itself among them; none for what is no Keras layer."""
    return model._flatten_layers() if isinstance(model, keras.Layer) else []


def rejecting_layers(model):
    """Returns the layers of a model that fail for inputs beyond bounds."""
    return [layer for layer in layers_of(model) if getattr(layer, "rejects_outside", False)]


def ends_in_softmax(model):
    """Whether what Keras knows the logits of, in what a model puts out, is of a softmax.

    Keras keeps the logits behind a sigmoid too. The last layer tells, and where there is no graph
    in which to find it, that the model has layers with a softmax and none with a sigmoid.
    """
    layer = _last_layer(model)
    if layer is not None:
        return _makes_softmax(layer)
    layers = layers_of(model)
    has_sigmoid = any(_activation(one) is keras.activations.sigmoid for one in layers)
    return not has_sigmoid and any(map(_makes_softmax, layers))


def _last_layer(model):
    """Returns the layer that makes the only output of a graph of layers, or `None`."""
    layer = model
    while isinstance(layer, (keras.Sequential, Functional)):
        if isinstance(layer, keras.Sequential):
            layer = layer.layers[-1] if layer.layers else None
            continue
        outputs = keras.tree.flatten(layer.outputs)
        layer = outputs[0]._keras_history.operation if len(outputs) == 1 else None
    return None if layer is model else layer


def _makes_softmax(layer):
    return isinstance(layer, keras.layers.Softmax) or (
        _activation(layer) is keras.activations.softmax
    )


def _activation(layer):
    return getattr(layer, "activation", None)
