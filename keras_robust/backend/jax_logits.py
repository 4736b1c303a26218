"""JAX: finds the logits behind probabilities in traced code, where Keras cannot keep them."""

import contextlib

import jax
import keras

from keras_robust.backend.keras_logits import set_keras_logits

_ACTIVATIONS = (keras.activations.softmax, keras.activations.sigmoid)
# On JAX they return their very input where its shape stays, and with it the logits behind it, of
# which neither TensorFlow nor a certificate knows anything.
_RESHAPING = (keras.layers.Flatten, keras.layers.Permute, keras.layers.Reshape)


@contextlib.contextmanager
def noted_logits(model):
    """Within, `keras_logits` knows what went into every softmax and sigmoid of Keras layers.

    Keras sets an attribute of what its activations return, and tracers take none. Those that a
    model calls by itself, outside of a layer such as `Dense` or `Softmax`, are not found.
    """
    changed = []
    layers = model._flatten_layers() if isinstance(model, keras.Layer) else ()
    for layer in layers:
        attributes = vars(layer)
        if isinstance(layer, keras.layers.Softmax) and "call" not in attributes:
            attributes["call"] = _noting(layer.call)
            changed.append((attributes, "call", None))
        elif isinstance(layer, _RESHAPING) and "call" not in attributes:
            attributes["call"] = _apart(layer.call)
            changed.append((attributes, "call", None))
        elif any(attributes.get("activation") is one for one in _ACTIVATIONS):
            changed.append((attributes, "activation", attributes["activation"]))
            attributes["activation"] = _noting(attributes["activation"])
    try:
        yield
    finally:
        for attributes, name, value in changed:
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
