"""The layers of a model, with those within layers, to which Keras has no public way."""

import keras


def layers_of(model):
    """Returns all layers of a model, itself among them; none for what is no Keras layer."""
    return model._flatten_layers() if isinstance(model, keras.Layer) else []


def rejecting_layers(model):
    """Returns the layers of a model that fail for inputs beyond bounds."""
    return [layer for layer in layers_of(model) if getattr(layer, "rejects_outside", False)]
