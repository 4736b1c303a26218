"""What must be so of a model before a proof about its layers is one about its predictions."""

import keras

from keras_robust import backend
from keras_robust import models

_EXACT = ("float32", "float64")


def check_precision(model):
    """Raises a `ValueError` for a Keras model that rounds more than float32 does, by layer.

    A certificate is about the exact function that the weights define. Rounding to half precision,
    or to whole numbers, moves logits by far more than the certificate allows for.
    """
    for layer in backend.layers_of(model):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                "A certificate is about exact arithmetic, and the rounding of a quantised layer is "
                "not within it: certify the model before `quantize`, or use "
                'kr.certify(..., "smoothing"), which looks at what the model answers alone. '
                f"Received: layer {layer.name!r} of class {type(layer).__name__}, quantised to "
                f"{layer.quantization_mode}"
            )
        is_input = isinstance(layer, keras.layers.InputLayer)
        dtype = layer.dtype if is_input else layer.compute_dtype
        if dtype not in _EXACT:
            raise ValueError(
                "A certificate is about exact arithmetic, and the rounding of this layer is not "
                "within it: make the model with float32 layers (weights can be copied by "
                f"get_weights and set_weights). Received: layer {layer.name!r} of class "
                f"{type(layer).__name__} in {dtype}"
            )


def check_shape(model, x):
    """Raises a `ValueError` for inputs that the model would reshape before it takes them."""
    expected = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or ()]
    for shape in expected:
        fits = len(shape) == len(x.shape) - 1 and all(
            size in (None, given) for size, given in zip(shape, x.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"Expected examples of the shape of the input of the model, {shape}. "
                f"Received: examples of shape {tuple(x.shape[1:])}"
            )


def check_logits(model, value):
    """Raises a `ValueError` where what was bounded is not what the loss makes logits of.

    Args:
        model: the compiled model.
        value: what came out of `propagate`, with an attribute `logits` that is what is in front of
            a final softmax or sigmoid, or `None`.
    """
    classifier = models.Classifier(model)
    if value.logits is None and classifier.from_logits is False:
        raise ValueError(
            "The loss takes probabilities, and the model does not end in a softmax or sigmoid, in "
            "front of which logits could be bounded: end the model with a softmax (one output: a "
            "sigmoid) and nothing behind it, or use from_logits=True. Received: a model "
            f"{model.name!r} with the loss {classifier.loss_name!r}, from_logits=False"
        )
