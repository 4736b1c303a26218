"""How much each layer of a model can stretch a difference of inputs, in L2: proven numbers."""

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
    """How far outputs can move when the input moves by 1.

    Args:
        constant: float, the Lipschitz constant up to here.
        shape: tuple, of a batch here; `lipschitz_bound` fills it in.
        head: `(kernel, constant before it)` of a last Dense layer, or `None`.
        logits: the `LipschitzBound` in front of a final softmax or sigmoid, or `None`. Only a layer
        that
            returns its very input keeps it: of any other the logits are no longer known.
    """

    def __init__(self, constant, shape=None, head=None, logits=None):
        self.constant = float(constant)
        self.shape = shape
        self.head = head
        self.logits = logits


def lipschitz_bound(layer, *values):
    """Returns the `LipschitzBound` after a layer: the rule for `graph.propagate`."""
    rule = _RULES.get(type(layer))
    if rule is None or getattr(layer, "quantization_mode", None):
        refuse(layer, "Lipschitz constant", [cls.__name__ for cls in _RULES])
    shapes = keras.tree.map_structure(lambda value: tuple(value.shape), values[0])
    found = rule(layer, *values)
    shape = tuple(layer.compute_output_shape(shapes))
    return LipschitzBound(found.constant, shape, found.head, found.logits)


def singular_values(matrix):
    """Returns all singular values, float64, from LAPACK."""
    return np.linalg.svd(np.asarray(matrix, "float64"), compute_uv=False)


def convolution_norm(kernel, image_shape, dilation=(1, 1)):
    """Returns a proven upper bound of the L2 operator norm of a zero-padded convolution.

    An image of this size, with as many zeros around it as the kernel reaches, has the same outputs
    under the circular convolution, of which those that are kept, with or without strides, are a
    part. The Fourier transform takes that convolution apart into one matrix for each frequency,
    whose largest singular value is computed exactly. For circular padding on the larger image it is
    the norm itself; for zero padding it is above the norm by what the border takes away.

    Args:
        kernel: array `(height, width, channels, filters)`.
        image_shape: pair of ints.
        dilation: pair of ints. Defaults to `(1, 1)`.
    """
    kernel = np.asarray(kernel, "float64")
    reach = [(size - 1) * rate + 1 for size, rate in zip(kernel.shape[:2], dilation, strict=True)]
    spread = np.zeros((*reach, *kernel.shape[2:]))
    spread[:: dilation[0], :: dilation[1]] = kernel
    size = [image + extent - 1 for image, extent in zip(image_shape, reach, strict=True)]
    spectrum = np.fft.fft2(spread, size, axes=(0, 1))
    return float(np.linalg.svd(spectrum, compute_uv=False).max())


def _activated(function, layer, reach):
    if function is keras.activations.softmax:
        # The Jacobian diag(p) - p p^T has norm 1/2 at most.
        return LipschitzBound(0.5 * reach.constant, logits=reach)
    name = getattr(function, "__name__", None)
    if name not in _CONSTANTS or getattr(keras.activations, name, None) is not function:
        refuse_activation(layer, function, "Lipschitz constant", [*_CONSTANTS, "softmax"])
    if name == "linear":
        return reach
    logits = reach if name == "sigmoid" else None
    return LipschitzBound(_CONSTANTS[name] * reach.constant, logits=logits)


def _dense(layer, reach):
    is_spectral = isinstance(layer, SpectralDense)
    kernel = layer.effective_kernel() if is_spectral else layer.kernel
    kernel = ops.convert_to_numpy(kernel).astype("float64")
    out = LipschitzBound(singular_values(kernel)[0] * reach.constant, head=(kernel, reach.constant))
    return _activated(layer.activation, layer, out)


def _convolution(layer, reach):
    if layer.groups != 1 or layer.data_format != "channels_last":
        refuse(layer, "Lipschitz constant with groups or channels first", ["Conv2D"])
    constant = convolution_norm(
        ops.convert_to_numpy(layer.kernel), reach.shape[1:3], layer.dilation_rate
    )
    return _activated(layer.activation, layer, LipschitzBound(constant * reach.constant))


def _orthogonal(layer, reach):
    kernel = ops.convert_to_numpy(layer.effective_kernel())
    return LipschitzBound(convolution_norm(kernel, reach.shape[1:3]) * reach.constant)


def _times(function):
    """Returns the rule for layers with a constant that a function of the layer gives."""
    return lambda layer, reach: LipschitzBound(function(layer) * reach.constant)


def _batch_normalization(layer):
    with backend.double_precision():
        return np.abs(ops.convert_to_numpy(batch_norm_scale(layer, "float64"))).max()


def _normalization(layer):
    deviation = np.maximum(np.sqrt(np.asarray(layer.variance, "float64")), keras.config.epsilon())
    return float(np.max(deviation if layer.invert else 1.0 / deviation))


def _average_pooling(layer):
    if layer.padding != "valid":
        refuse(layer, "Lipschitz constant with padding='same'", ["AveragePooling2D"])
    # Averages of windows that do not overlap; of others the norm is that of a mean of shifts.
    apart = all(s >= p for s, p in zip(layer.strides, layer.pool_size, strict=True))
    return 1.0 / math.sqrt(math.prod(layer.pool_size)) if apart else 1.0


def _relu(layer):
    if layer.threshold:
        refuse(layer, "Lipschitz constant of a ReLU that jumps", ["ReLU"])
    return max(1.0, float(layer.negative_slope))


def _max_pooling(layer):
    """Every entry is in so many windows, and each window takes one of its entries."""
    pairs = zip(layer.pool_size, layer.strides, strict=True)
    return math.sqrt(math.prod(math.ceil(size / stride) for size, stride in pairs))


def _global_average(layer, reach):
    if layer.data_format != "channels_last":
        refuse(layer, "Lipschitz constant with channels first", ["GlobalAveragePooling2D"])
    return LipschitzBound(reach.constant / math.sqrt(math.prod(reach.shape[1:3])))


def _add(layer, values):
    if len({value.shape[1:] for value in values}) > 1:
        # An entry that is repeated moves the sum more than once.
        refuse(layer, "Lipschitz constant for inputs of several shapes", ["Add"])
    return LipschitzBound(sum(value.constant for value in values))


def _rescaling(layer, reach):
    scale = np.asarray(layer.scale, "float64")
    shape = tuple(size or 1 for size in reach.shape)
    if np.broadcast_shapes(scale.shape, shape) != shape:
        refuse(layer, "Lipschitz constant for a scale larger than the input", ["Rescaling"])
    return LipschitzBound(np.max(np.abs(scale)) * reach.constant)


_UNCHANGED = "ActivityRegularization Dropout GaussianNoise Identity SpatialDropout2D"
_SHORT = "Cropping2D Flatten GlobalMaxPooling2D Permute Reshape ZeroPadding2D"
_RULES = {
    **{getattr(_layers, name): lambda layer, reach: reach for name in _UNCHANGED.split()},
    **{getattr(_layers, name): _times(lambda layer: 1.0) for name in _SHORT.split()},
    GroupSort: _times(lambda layer: 1.0),
    # It passes valid inputs on, and clips others or answers none.
    InputGuard: _times(lambda layer: 1.0),
    OrthogonalConv2D: _orthogonal,
    SpectralDense: _dense,
    _layers.Dense: _dense,
    _layers.Conv2D: _convolution,
    _layers.Activation: lambda layer, reach: _activated(layer.activation, layer, reach),
    _layers.Add: _add,
    _layers.AveragePooling2D: _times(_average_pooling),
    _layers.BatchNormalization: _times(_batch_normalization),
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
    _layers.Softmax: lambda layer, reach: _activated(keras.activations.softmax, layer, reach),
    _layers.SpectralNormalization: lambda layer, reach: lipschitz_bound(layer.layer, reach),
}
