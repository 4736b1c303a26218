"""Lipschitz constants of layers in L2: proven upper bounds."""

import math

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.certification.graph import refuse
from keras_robust.certification.graph import refuse_activation
from keras_robust.certification.interval_rules import batch_norm_scale
from keras_robust.layers import GroupSort
from keras_robust.layers import InputGuard
from keras_robust.layers import OrthogonalConv2D
from keras_robust.layers import SpectralDense

_layers = keras.layers
# The largest absolute slope of each activation.
_CONSTANTS = {
    "elu": 1.0,
    "hard_tanh": 1.0,
    "leaky_relu": 1.0,
    "linear": 1.0,
    "log_sigmoid": 1.0,
    "relu": 1.0,
    "relu6": 1.0,
    "sigmoid": 0.25,
    "softplus": 1.0,
    "softsign": 1.0,
    "tanh": 1.0,
}


class LipschitzBound:
    """The Lipschitz constant of a model up to one of its layers.

    Args:
        constant: float, the Lipschitz constant.
        shape: tuple, the shape of a batch of outputs, which `lipschitz_bound` sets.
        head: `(kernel, constant)` of a last Dense layer, with the constant before it, or `None`.
        logits: the `LipschitzBound` before a final softmax or sigmoid, or `None`. All layers reset
            it, except for layers that return their input.
    """

    def __init__(self, constant, shape=None, head=None, logits=None):
        self.constant = float(constant)
        self.shape = shape
        self.head = head
        self.logits = logits


def lipschitz_bound(layer, *values):
    """Returns the `LipschitzBound` after a layer: the rule for `graph.propagate`."""
    # Subclasses have no rule, because they may compute something else.
    rule = _RULES.get(type(layer))
    if rule is None or getattr(layer, "quantization_mode", None):
        refuse(layer, "Lipschitz constant", [cls.__name__ for cls in _RULES])
    shapes = keras.tree.map_structure(lambda value: tuple(value.shape), values[0])
    found = rule(layer, *values)
    shape = tuple(layer.compute_output_shape(shapes))
    return LipschitzBound(found.constant, shape, found.head, found.logits)


def singular_values(matrix):
    """Returns all singular values in float64, computed by LAPACK."""
    return np.linalg.svd(np.asarray(matrix, "float64"), compute_uv=False)


def convolution_norm(kernel, image_shape, dilation=(1, 1)):
    """Returns a proven upper bound of the L2 operator norm of a zero-padded convolution.

    Padded with as many zeros as the kernel reaches, an image has the same outputs under circular
    convolution; strides and cropping only select some of them. The Fourier transform decomposes the
    circular convolution into one matrix for each frequency, whose largest singular value is
    computed exactly. The result is the norm of the circular convolution on the padded image, and an
    upper bound of the norm for zero padding.

    Args:
        kernel: array `(height, width, channels, filters)`.
        image_shape: pair of ints, height and width of the input.
        dilation: pair of ints, the dilation rates. Defaults to `(1, 1)`.
    """
    kernel = np.asarray(kernel, "float64")
    reach = [(size - 1) * rate + 1 for size, rate in zip(kernel.shape[:2], dilation, strict=True)]
    spread = np.zeros((*reach, *kernel.shape[2:]))
    spread[:: dilation[0], :: dilation[1]] = kernel
    size = [image + extent - 1 for image, extent in zip(image_shape, reach, strict=True)]
    spectrum = np.fft.fft2(spread, size, axes=(0, 1))
    return float(np.linalg.svd(spectrum, compute_uv=False).max())


def _activated(function, layer, bound):
    """Returns the `LipschitzBound` after an activation."""
    if function is keras.activations.softmax:
        # The norm of the Jacobian, diag(p) - p p^T, is at most 1/2.
        return LipschitzBound(0.5 * bound.constant, logits=bound)
    name = getattr(function, "__name__", None)
    if name not in _CONSTANTS or getattr(keras.activations, name, None) is not function:
        refuse_activation(layer, function, "Lipschitz constant", [*_CONSTANTS, "softmax"])
    if name == "linear":
        return bound
    logits = bound if name == "sigmoid" else None
    return LipschitzBound(_CONSTANTS[name] * bound.constant, logits=logits)


def _dense(layer, bound):
    is_spectral = isinstance(layer, SpectralDense)
    kernel = layer.effective_kernel() if is_spectral else layer.kernel
    kernel = ops.convert_to_numpy(kernel).astype("float64")
    out = LipschitzBound(singular_values(kernel)[0] * bound.constant, head=(kernel, bound.constant))
    return _activated(layer.activation, layer, out)


def _convolution(layer, bound):
    if layer.groups != 1 or layer.data_format != "channels_last":
        refuse(layer, "Lipschitz constant with groups or channels first", ["Conv2D"])
    constant = convolution_norm(
        ops.convert_to_numpy(layer.kernel), bound.shape[1:3], layer.dilation_rate
    )
    return _activated(layer.activation, layer, LipschitzBound(constant * bound.constant))


def _orthogonal(layer, bound):
    # The kernel is orthogonal up to rounding, and if its iteration has converged. So measure it.
    kernel = ops.convert_to_numpy(layer.effective_kernel())
    return LipschitzBound(convolution_norm(kernel, bound.shape[1:3]) * bound.constant)


def _times(function):
    """Returns the rule for a layer whose constant is a function of the layer."""
    return lambda layer, bound: LipschitzBound(function(layer) * bound.constant)


def _batch_normalization(layer):
    with backend.double_precision():
        return np.abs(ops.convert_to_numpy(batch_norm_scale(layer, "float64"))).max()


def _normalization(layer):
    # Keras has the same lower limit.
    deviation = np.maximum(np.sqrt(np.asarray(layer.variance, "float64")), keras.config.epsilon())
    return float(np.max(deviation if layer.invert else 1.0 / deviation))


def _average_pooling(layer):
    if layer.padding != "valid":
        refuse(layer, "Lipschitz constant with padding='same'", ["AveragePooling2D"])
    # Without overlap, each average has norm 1 / sqrt(size). Otherwise it is a mean of shifts.
    apart = all(s >= p for s, p in zip(layer.strides, layer.pool_size, strict=True))
    return 1.0 / math.sqrt(math.prod(layer.pool_size)) if apart else 1.0


def _relu(layer):
    if layer.threshold:
        refuse(layer, "Lipschitz constant of a ReLU that jumps", ["ReLU"])
    return max(1.0, float(layer.negative_slope))


def _max_pooling(layer):
    """Returns the square root of the number of windows that contain an entry."""
    # An output changes by at most the largest change in its window, and windows may overlap.
    pairs = zip(layer.pool_size, layer.strides, strict=True)
    return math.sqrt(math.prod(math.ceil(size / stride) for size, stride in pairs))


def _global_average(layer, bound):
    if layer.data_format != "channels_last":
        refuse(layer, "Lipschitz constant with channels first", ["GlobalAveragePooling2D"])
    # The mean of n entries has the norm 1 / sqrt(n).
    return LipschitzBound(bound.constant / math.sqrt(math.prod(bound.shape[1:3])))


def _add(layer, values):
    if len({value.shape[1:] for value in values}) > 1:
        # Broadcasting repeats an entry, so that it changes several entries of the sum.
        refuse(layer, "Lipschitz constant for inputs of several shapes", ["Add"])
    return LipschitzBound(sum(value.constant for value in values))


def _rescaling(layer, bound):
    scale = np.asarray(layer.scale, "float64")
    shape = tuple(size or 1 for size in bound.shape)
    # A larger scale would repeat entries of the input.
    if np.broadcast_shapes(scale.shape, shape) != shape:
        refuse(layer, "Lipschitz constant for a scale larger than the input", ["Rescaling"])
    return LipschitzBound(np.max(np.abs(scale)) * bound.constant)


# Layers that return their input in inference.
_UNCHANGED = "ActivityRegularization Dropout GaussianNoise Identity SpatialDropout2D"
# Layers that only select, reorder or pad entries.
_SHORT = "Cropping2D Flatten GlobalMaxPooling2D Permute Reshape ZeroPadding2D"
_RULES = {
    **{getattr(_layers, name): lambda layer, bound: bound for name in _UNCHANGED.split()},
    **{getattr(_layers, name): _times(lambda layer: 1.0) for name in _SHORT.split()},
    GroupSort: _times(lambda layer: 1.0),
    # A guard returns valid inputs, and clips or rejects others.
    InputGuard: _times(lambda layer: 1.0),
    OrthogonalConv2D: _orthogonal,
    SpectralDense: _dense,
    _layers.Dense: _dense,
    _layers.Conv2D: _convolution,
    _layers.Activation: lambda layer, bound: _activated(layer.activation, layer, bound),
    _layers.Add: _add,
    _layers.AveragePooling2D: _times(_average_pooling),
    _layers.BatchNormalization: _times(_batch_normalization),
    # The squared changes of the parts add up.
    _layers.Concatenate: lambda layer, values: LipschitzBound(
        math.hypot(*(v.constant for v in values))
    ),
    _layers.ELU: _times(lambda layer: max(1.0, abs(float(layer.alpha)))),
    _layers.GlobalAveragePooling2D: _global_average,
    _layers.LeakyReLU: _times(lambda layer: max(1.0, float(layer.negative_slope))),
    _layers.MaxPooling2D: _times(_max_pooling),
    _layers.Normalization: _times(_normalization),
    _layers.ReLU: _times(_relu),
    _layers.Rescaling: _rescaling,
    _layers.Softmax: lambda layer, bound: _activated(keras.activations.softmax, layer, bound),
    _layers.SpectralNormalization: lambda layer, bound: lipschitz_bound(layer.layer, bound),
}
