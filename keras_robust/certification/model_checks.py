"""Checks that a proof about the layers of a model holds for its predictions."""

import keras
import numpy as np

from keras_robust import backend
from keras_robust import models

# A margin must be below 0 by this share of the largest logit. The model computes in float32, whose
# rounding errors are about 1e-6 of the logits; those of the bounds, in float64, are far smaller.
SLACK = 1e-6
_EXACT = ("float32", "float64")


def check_precision(model):
    """Raises a `ValueError` for a Keras model with a layer that is less precise than float32.

    A certificate holds for the exact function that the weights define. Rounding to half precision,
    or to integers, changes logits far more than float32 does. Weights that are not finite define no
    function, so they raise as well.
    """
    for layer in backend.layers_of(model):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                "A certificate holds for exact arithmetic, not for the rounding of a quantized "
                "layer: certify the model before `quantize`, or use "
                'kr.certify(..., "smoothing"), which uses only the outputs of the model. '
                f"Received: layer {layer.name!r} of class {type(layer).__name__}, quantized to "
                f"{layer.quantization_mode}"
            )
        # The `compute_dtype` of an InputLayer says nothing about its input.
        is_input = isinstance(layer, keras.layers.InputLayer)
        dtype = layer.dtype if is_input else layer.compute_dtype
        if dtype not in _EXACT:
            raise ValueError(
                "A certificate holds for exact arithmetic, not for the rounding of this layer: "
                "build the model with float32 layers (copy the weights with get_weights and "
                f"set_weights). Received: layer {layer.name!r} of class "
                f"{type(layer).__name__} in {dtype}"
            )
    _check_finite(model)


def _check_finite(model):
    # The layers inside a layer follow it, so the last one that matches is the most precise.
    for layer in reversed(backend.layers_of(model)):
        for weight in layer.weights:
            values = keras.ops.convert_to_numpy(weight)
            num_bad = int(np.sum(~np.isfinite(values)))
            if num_bad:
                raise ValueError(
                    "Expected finite weights, because a bound with NaN or infinity proves nothing: "
                    "train the model again, or load other weights. Received: layer "
                    f"{layer.name!r} of class {type(layer).__name__} with {num_bad} of "
                    f"{values.size} values of {weight.name!r} NaN or infinite"
                )


def check_shape(model, x):
    """Raises a `ValueError` for inputs that the model would have to reshape."""
    expected = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or ()]
    for shape in expected:
        fits = len(shape) == len(x.shape) - 1 and all(
            size in (None, given) for size, given in zip(shape, x.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"Expected examples of shape {shape}, that of the model input. "
                f"Received: examples of shape {tuple(x.shape[1:])}"
            )


def check_logits(model, value):
    """Raises a `ValueError` if a proof bounds probabilities, whose logits are not known.

    Args:
        model: the compiled model.
        value: the result of `propagate`. Its attribute `logits` is the value before a final softmax
            or sigmoid, or `None`.
    """
    classifier = models.Classifier(model)
    if value.logits is None and classifier.from_logits is False:
        raise ValueError(
            "The loss takes probabilities, and the certificate needs the logits before a final "
            "softmax or sigmoid: end the model with a softmax (with one output, a sigmoid) and no "
            "layer after it, or use from_logits=True. Received: a model "
            f"{model.name!r} with the loss {classifier.loss_name!r}, from_logits=False"
        )
