"""CROWN: bounds of margins by linear functions of the input, from interval bounds."""

import math

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.certification.graph import propagate
from keras_robust.certification.graph import refuse
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.interval_rules import before_activation
from keras_robust.threat_models.threat_model import flatten

_TINY = 1e-12  # Avoids 0 / 0 for a ReLU whose input is always 0.
# Layers whose output, before the activation, is an affine function of the input.
_AFFINE = (
    "Activation AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization Conv1D "
    "Conv2D Conv3D Cropping1D Cropping2D Cropping3D Dense Dropout Flatten GaussianNoise "
    "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D Identity Normalization "
    "OrthogonalConv2D Permute Rescaling Reshape SpectralDense ZeroPadding1D ZeroPadding2D "
    "ZeroPadding3D"
).split()


def crown_margins(model, box, labels):
    """Returns upper bounds of `z_j - z_y` over a box of inputs, `(batch_size, num_classes)`.

    With interval bounds `l`, `u` of the input `h` of a ReLU, `max(h, 0)` is at most
    `u (h - l) / (u - l)`, and at least `h` if `u > -l`, else at least 0. A backward pass from the
    margins replaces every ReLU by the line that makes the margin larger. The result is an affine
    function of the input, whose maximum over the box is exact. The entries for `j = y` are 0. Cost:
    one pass of intervals, and one backward pass for each class.

    Args:
        model: built `keras.Model`, a chain of affine layers and ReLU that ends in logits.
        box: `IntervalBounds` of the inputs.
        labels: int32 `(batch_size,)`, `y`; a model with one logit has two classes.

    Raises:
        ValueError: for a layer that is neither affine nor a ReLU; the message names it.
    """
    steps = []

    def record(layer, before):
        has_relu = _has_relu(layer)
        if type(layer) is not keras.layers.ReLU:
            steps.append((layer, before))
            before = before_activation(layer, before)
        if not has_relu:
            return before
        # The backward pass needs the box in front of the ReLU to choose its lines.
        steps.append((None, before))
        return IntervalBounds(ops.relu(before.lower), ops.relu(before.upper))

    count = propagate(model, box, record).upper.shape[-1]
    # A single logit z stands for the two logits (0, z).
    classes = np.eye(count) if count > 1 else np.array([[0.0], [1.0]])
    classes = ops.convert_to_tensor(classes, box.lower.dtype)
    slopes = ops.expand_dims(classes, 0) - ops.expand_dims(ops.take(classes, labels, axis=0), 1)
    offsets = 0.0
    for layer, entry in reversed(steps):
        back = _through_relu(slopes, entry) if layer is None else _back(layer, slopes, entry)
        slopes, offsets = back[0], offsets + back[1]
    centre, radius = (ops.expand_dims(flatten(part), 1) for part in (box.centre, box.radius))
    return offsets + ops.sum(slopes * centre + ops.abs(slopes) * radius, axis=-1)


def _has_relu(layer):
    """Returns whether a layer ends in a ReLU; raises ValueError if it is not affine otherwise."""
    name = type(layer).__name__
    function = getattr(layer, "activation", None)
    # A ReLU with a cap, a slope or a threshold would need other bounding lines.
    is_plain = name == "ReLU" and (layer.max_value, layer.negative_slope, layer.threshold) == (
        None,
        0.0,
        0.0,
    )
    known = (None, keras.activations.linear, keras.activations.relu)
    if not is_plain and (name not in _AFFINE or function not in known):
        refuse(layer, "CROWN bound", [*_AFFINE, "ReLU, and activation='relu' or none"])
    return is_plain or function is keras.activations.relu


def _through_relu(slopes, box):
    """Returns the slopes before a ReLU, `(batch_size, num_classes, features)`, and offsets."""
    lower, upper = (ops.expand_dims(flatten(end), 1) for end in (box.lower, box.upper))
    # The upper line passes through (l, 0) and (u, u). For l >= 0 and u <= 0 it is the ReLU itself.
    share = ops.relu(upper) / ops.maximum(ops.relu(upper) + ops.relu(-lower), _TINY)
    # An upper bound takes the upper line where the slope is positive, and the lower one elsewhere.
    above, below = ops.maximum(slopes, 0.0), ops.minimum(slopes, 0.0)
    # The lower line is the one with the smaller area between it and the ReLU.
    kept = ops.cast(upper > -lower, slopes.dtype)
    offsets = ops.sum(above * share * ops.relu(-lower), axis=-1)
    return above * share + below * kept, offsets


def _back(layer, slopes, box):
    """Returns the slopes before an affine layer, and offsets."""
    entry, (_, classes, features) = box.lower.shape[1:], slopes.shape
    rows = ops.reshape(slopes, (-1, features))

    def values(x):
        outputs = before_activation(layer, IntervalBounds(x, x)).centre
        return ops.sum(rows * flatten(outputs), axis=-1), ()

    # The gradient of an affine function is its slopes, and its value at 0 is its offset.
    origin = ops.zeros((ops.shape(rows)[0], *entry), dtype=rows.dtype)
    (offsets, _), gradient = backend.value_and_input_gradient(values, origin)
    slopes = ops.reshape(gradient, (-1, classes, math.prod(entry)))
    return slopes, ops.reshape(offsets, (-1, classes))
