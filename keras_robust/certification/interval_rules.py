"""Interval bound propagation: the rule of each layer for boxes."""

import math

import keras
from keras import ops

from keras_robust.certification.graph import propagate
from keras_robust.certification.graph import refuse
from keras_robust.certification.interval_activations import activate
from keras_robust.certification.interval_activations import softmax_bounds
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.layers import GroupSort
from keras_robust.layers import InputGuard
from keras_robust.layers import OrthogonalConv2D
from keras_robust.layers import SpectralDense

_layers = keras.layers


def propagate_box(model, box, relu_boxes=None):
    """Returns bounds on the outputs of a model, in inference mode, for all inputs in a box.

    `W x + b` maps center and radius to `W c + b` and `|W| r`; increasing functions map the ends.

    Args:
        model: built Sequential or Functional `keras.Model`.
        box: `IntervalBounds` of the inputs.
        relu_boxes: list to which the box in front of every ReLU is added, or `None`.

    Raises:
        ValueError: for a layer or an activation without a rule; the message names it.
    """

    def bound_layer(layer, *values):
        before = before_activation(layer, *values)
        function = getattr(layer, "activation", None)
        if relu_boxes is not None and function is keras.activations.relu:
            relu_boxes.append(before)
        if relu_boxes is not None and type(layer) is _layers.ReLU:
            relu_boxes.extend(values)
        return before if function is None else activate(layer, function, before)

    return propagate(model, box, bound_layer)


def before_activation(layer, *values):
    """Returns the `IntervalBounds` after a layer, before the activation that it may have."""
    # Subclasses have no rule, because they may compute something else.
    rule = _RULES.get(type(layer))
    if rule is None or getattr(layer, "quantization_mode", None):
        refuse(layer, "interval bound", [cls.__name__ for cls in _RULES])
    return rule(layer, *values)


def _affine(box, function, kernel, bias, shape):
    """Returns center and radius of `function(x, kernel) + bias`, with the bias in a shape."""
    dtype = box.lower.dtype
    kernel = ops.cast(kernel, dtype)
    centre = function(box.centre, kernel)
    if bias is not None:
        centre = centre + ops.reshape(ops.cast(bias, dtype), shape)
    # For a single point the radius is 0, which saves the second product.
    if box.lower is box.upper:
        return centre, ops.zeros_like(centre)
    return centre, function(box.radius, ops.abs(kernel))


def _dense(layer, box):
    dtype = box.lower.dtype
    is_spectral = isinstance(layer, SpectralDense)
    kernel = ops.cast(layer.effective_kernel() if is_spectral else layer.kernel, dtype)
    bias = (
        ops.zeros(kernel.shape[-1:], dtype) if layer.bias is None else ops.cast(layer.bias, dtype)
    )
    centre, radius = _affine(box, ops.matmul, kernel, bias, (-1,))
    # `worst_margins` needs inputs of one axis to bound differences of logits.
    origin = (kernel, bias, box) if len(box.lower.shape) == 2 else None
    return IntervalBounds(centre - radius, centre + radius, origin)


def _convolution(layer, box):
    # Keras pads causally in `call`, and `convolution_op` does not.
    if layer.padding == "causal":
        refuse(layer, "interval bound with padding='causal'", [cls.__name__ for cls in _RULES])
    is_last = layer.data_format == "channels_last"
    shape = (-1,) if is_last else (-1,) + (1,) * layer.rank
    centre, radius = _affine(box, layer.convolution_op, layer.kernel, layer.bias, shape)
    return IntervalBounds(centre - radius, centre + radius)


def _orthogonal(layer, box):
    kernel = layer.effective_kernel()
    centre, radius = _affine(box, layer.convolution_op, kernel, layer.bias, (-1,))
    return IntervalBounds(centre - radius, centre + radius)


def _scale(box, factor, offset):
    """Returns the box of `factor * x + offset`, elementwise; the factor may be negative."""
    dtype = box.lower.dtype
    factor, offset = (ops.cast(value, dtype) for value in (factor, offset))
    centre, radius = factor * box.centre + offset, ops.abs(factor) * box.radius
    return IntervalBounds(centre - radius, centre + radius)


def _rescaling(layer, box):
    return _scale(box, ops.convert_to_tensor(layer.scale), ops.convert_to_tensor(layer.offset))


def _normalization(layer, box):
    dtype = box.lower.dtype
    mean, variance = (ops.cast(value, dtype) for value in (layer.mean, layer.variance))
    # Keras has the same lower limit.
    deviation = ops.maximum(ops.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return _scale(box, deviation, mean)
    return _scale(box, 1.0 / deviation, -mean / deviation)


def batch_norm_scale(layer, dtype):
    """Returns the factor of a BatchNormalization layer in inference mode, one per channel."""
    factor = 1.0 / ops.sqrt(ops.cast(layer.moving_variance, dtype) + layer.epsilon)
    return factor if layer.gamma is None else factor * ops.cast(layer.gamma, dtype)


def _batch_normalization(layer, box):
    dtype = box.lower.dtype
    factor = batch_norm_scale(layer, dtype)
    offset = -ops.cast(layer.moving_mean, dtype) * factor
    if layer.beta is not None:
        offset = offset + ops.cast(layer.beta, dtype)
    shape = [1] * len(box.lower.shape)
    shape[layer.axis] = -1
    return _scale(box, ops.reshape(factor, shape), ops.reshape(offset, shape))


def _guard(layer, box):
    """Returns the clipped box: a guard clips inputs out of bounds, or rejects them."""
    if layer.bounds is None:
        return IntervalBounds(box.lower, box.upper)
    low, high = (ops.convert_to_tensor(bound, dtype=box.lower.dtype) for bound in layer.bounds)
    return IntervalBounds(
        *(ops.minimum(ops.maximum(end, low), high) for end in (box.lower, box.upper))
    )


def _increasing(layer, box):
    """Returns the box after a layer that never decreases when an input increases."""
    return IntervalBounds(layer.call(box.lower), layer.call(box.upper))


def _average_pooling_3d(layer, box):
    """Returns the box after an average over three axes, taken over two of them and then the third.

    TensorFlow has no such pooling of float64 on CPUs.
    """
    if layer.data_format != "channels_last":
        return _increasing(layer, box)

    def pool(x, axes):
        arguments = layer.pool_size[axes], layer.strides[axes], layer.padding, "channels_last"
        return ops.average_pool(x, *arguments)

    def function(x):
        images = pool(ops.reshape(x, (-1, *x.shape[2:])), slice(1, 3))
        inner = images.shape[1:]
        rows = pool(ops.reshape(images, (-1, x.shape[1], math.prod(inner))), slice(0, 1))
        return ops.reshape(rows, (-1, rows.shape[1], *inner))

    return IntervalBounds(function(box.lower), function(box.upper))


def _global_average(layer, box):
    """Returns the box after a mean, as a sum: Keras on JAX takes means of float64 in float32."""
    rank = len(box.lower.shape)
    axes = tuple(range(rank)[1:-1] if layer.data_format == "channels_last" else range(rank)[2:])
    count = math.prod(box.lower.shape[axis] for axis in axes)
    return IntervalBounds(
        *(ops.sum(end, axes, keepdims=layer.keepdims) / count for end in (box.lower, box.upper))
    )


def _elu(layer, box):
    # With a negative `alpha`, ELU decreases on negative inputs.
    if layer.alpha < 0.0:
        refuse(layer, "interval bound with a negative alpha", ["ELU"])
    return _increasing(layer, box)


def _merge(layer, boxes):
    """Returns the box after a layer that takes a list and decreases with none of its items."""
    return IntervalBounds(
        layer.call([b.lower for b in boxes]), layer.call([b.upper for b in boxes])
    )


def _subtract(layer, boxes):
    first, second = boxes
    # The layer adds axes to an input that has fewer.
    return IntervalBounds(
        layer.call([first.lower, second.upper]), layer.call([first.upper, second.lower])
    )


def _softmax_layer(layer, box):
    if layer.axis not in (-1, len(box.lower.shape) - 1):
        refuse(layer, "interval bound with another axis", [cls.__name__ for cls in _RULES])
    return softmax_bounds(box)


_NAMES = {
    _increasing: (
        "AveragePooling1D AveragePooling2D Cropping1D Cropping2D Cropping3D "
        "Flatten GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D LeakyReLU "
        "MaxPooling1D MaxPooling2D MaxPooling3D Permute ReLU RepeatVector Reshape UpSampling1D "
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D"
    ),
    lambda layer, box: box: (
        "Activation ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise "
        "Identity SpatialDropout1D SpatialDropout2D SpatialDropout3D"
    ),
    # Multiply is not among them: with a negative factor, a product falls when the other one rises.
    _merge: "Add Average Concatenate Maximum Minimum",
    _average_pooling_3d: "AveragePooling3D",
    _global_average: "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D",
    _convolution: "Conv1D Conv2D Conv3D",
    _batch_normalization: "BatchNormalization",
    _dense: "Dense",
    _elu: "ELU",
    _normalization: "Normalization",
    _rescaling: "Rescaling",
    _softmax_layer: "Softmax",
    _subtract: "Subtract",
}
_RULES = {getattr(_layers, name): rule for rule, names in _NAMES.items() for name in names.split()}
_RULES.update(
    {
        GroupSort: _increasing,
        InputGuard: _guard,
        OrthogonalConv2D: _orthogonal,
        SpectralDense: _dense,
    }
)
