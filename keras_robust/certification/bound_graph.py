"""A model as affine functions and curves, for linear bounds."""

import dataclasses
import functools
import itertools
import typing

import keras
import numpy as np
from keras import ops

from keras_robust.certification.curves import RELU
from keras_robust.certification.curves import Curve
from keras_robust.certification.curves import curve_of_activation
from keras_robust.certification.curves import curve_of_layer
from keras_robust.certification.graph import propagate
from keras_robust.certification.graph import refuse
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.interval_rules import before_activation
from keras_robust.layers import GroupSort
from keras_robust.layers import InputGuard
from keras_robust.layers import OrthogonalConv2D
from keras_robust.layers import SpectralDense

_layers = keras.layers


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A tensor of the model, as an affine function or a curve of other tensors.

    Args:
        shape: tuple, the shape for one example.
        inputs: tuple of `Node`; empty for the input of the model.
        function: the affine function of the tensors of the inputs, or `None`.
        interval: function of the `IntervalBounds` of the inputs that returns those of this tensor.
        curve: the `Curve` that is applied to the only input, or `None`.
        logits: the node before a final softmax or sigmoid, or `None`.
        offset: the value of the affine function at 0, `(1, *shape)`.
        number: int, the order in which nodes were made.
    """

    shape: tuple
    inputs: tuple = ()
    function: typing.Callable | None = None
    interval: typing.Callable | None = None
    curve: Curve | None = None
    logits: "Node | None" = None
    offset: object = None
    number: int = dataclasses.field(default_factory=itertools.count().__next__)

    def ancestors(self):
        """Returns the nodes that this one depends on, and itself, each after its inputs."""
        found, waiting = {}, [self]
        while waiting:
            node = waiting.pop()
            found[node.number] = node
            waiting += [source for source in node.inputs if source.number not in found]
        # A node is made after its inputs.
        return [found[number] for number in sorted(found)]


def bound_graph(model, shape, dtype):
    """Returns the `Node` of the output of a model, which leads to that of the input.

    Args:
        model: built Sequential or Functional `keras.Model`.
        shape: tuple, the shape of one example.
        dtype: str, that of the bounds.

    Raises:
        ValueError: for a layer or an activation without a rule; the message names it.
    """
    return propagate(model, Node(tuple(shape)), _Tracer(dtype).after_layer)


class _Tracer:
    """Makes the nodes of a model, layer by layer.

    Args:
        dtype: str, that of the bounds.
    """

    def __init__(self, dtype):
        self._dtype = dtype

    def after_layer(self, layer, *values):
        """Returns the node after a layer: the rule for `graph.propagate`."""
        takes_list = isinstance(values[0], list)
        nodes = values[0] if takes_list else values
        if any(node.function is node.curve is None and node.logits for node in nodes):
            refuse(layer, "linear bound after a softmax", ["Softmax at the end of a model"])
        # Subclasses have no rule, because they may compute something else.
        rule = _RULES.get(type(layer))
        if rule is None or getattr(layer, "quantization_mode", None):
            refuse(layer, "linear bound", [cls.__name__ for cls in _RULES])
        if rule is not _Tracer.layer:
            return rule(self, layer, *nodes)
        node = self.layer(layer, nodes, takes_list)
        return self._activated(layer, node)

    def layer(self, layer, nodes, takes_list):
        """Returns the node of an affine layer, before its activation."""

        def interval(*boxes):
            return before_activation(layer, *([list(boxes)] if takes_list else boxes))

        def function(*tensors):
            return interval(*(IntervalBounds(x, x) for x in tensors)).centre

        return self._affine(nodes, function, interval)

    def maximum(self, layer, *nodes):
        """Returns the node of a layer that takes the maximum of tensors."""
        return functools.reduce(self._larger, self._of_equal_rank(nodes))

    def minimum(self, layer, *nodes):
        """Returns the node of a layer that takes the minimum of tensors."""
        return functools.reduce(self._smaller, self._of_equal_rank(nodes))

    def _of_equal_rank(self, nodes):
        """Returns nodes with axes in front, as the layers of Keras add them to merge tensors."""
        rank = max(len(node.shape) for node in nodes)
        shapes = [(1,) * (rank - len(node.shape)) + node.shape for node in nodes]
        return [
            self._selected(node, functools.partial(ops.reshape, newshape=(-1, *shape)))
            for node, shape in zip(nodes, shapes, strict=True)
        ]

    def max_pooling(self, layer, node):
        """Returns the node of a max pooling, which is taken along one axis after the other."""
        is_last = layer.data_format == "channels_last"
        for axis, size in enumerate(layer.pool_size, start=0 if is_last else 1):
            stride = layer.strides[axis - (not is_last)]
            windows = _windows(node.shape[axis], size, stride, layer.padding)
            node = self._largest_along(node, axis, windows)
        return node

    def global_max_pooling(self, layer, node):
        """Returns the node of a global max pooling."""
        shape = node.shape
        is_last = layer.data_format == "channels_last"
        axes = range(len(shape))[:-1] if is_last else range(len(shape))[1:]
        for axis in axes:
            node = self._largest_along(node, axis, np.arange(shape[axis])[None])
        if layer.keepdims:
            return node
        channels = shape[-1] if is_last else shape[0]
        return self._selected(node, lambda x: ops.reshape(x, (-1, channels)))

    def group_sort(self, layer, node):
        """Returns the node of a layer that sorts pairs of channels."""
        if layer.group_size != 2:
            refuse(layer, "linear bound for group_size other than 2", ["GroupSort"])
        first, second = (self._selected(node, lambda x, i=i: x[..., i::2]) for i in (0, 1))
        larger, shape = self._larger(first, second), node.shape

        def interleave(low, high):
            return ops.reshape(ops.stack([low, high], axis=-1), (-1, *shape))

        def interval(low, high):
            return IntervalBounds(
                interleave(low.lower, high.lower), interleave(low.upper, high.upper)
            )

        return self._affine([self._smaller(first, second), larger], interleave, interval)

    def guard(self, layer, node):
        """Returns the node of a guard, which clips inputs out of bounds, or rejects them."""
        if layer.bounds is None:
            return node
        for bound, pairwise in zip(layer.bounds, (self._larger, self._smaller), strict=True):
            end = ops.broadcast_to(ops.cast(bound, self._dtype), (1, *node.shape))
            node = pairwise(node, self._constant(node, end))
        return node

    def curve(self, layer, node):
        """Returns the node of a layer that is an activation with arguments."""
        return _curved(node, curve_of_layer(layer))

    def softmax(self, layer, node):
        """Returns a node that only tells its logits."""
        if layer.axis not in (-1, len(node.shape)):
            refuse(layer, "linear bound with another axis", ["Softmax"])
        return Node(node.shape, (node,), logits=node)

    def _activated(self, layer, node):
        function = getattr(layer, "activation", None)
        if function is keras.activations.softmax:
            return Node(node.shape, (node,), logits=node)
        curve = curve_of_activation(layer, function)
        if curve is None:
            return node
        is_sigmoid = function is keras.activations.sigmoid
        return _curved(node, curve, logits=node if is_sigmoid else None)

    def _affine(self, nodes, function, interval):
        offset = function(*(ops.zeros((1, *node.shape), self._dtype) for node in nodes))
        return Node(tuple(offset.shape[1:]), tuple(nodes), function, interval, offset=offset)

    def _selected(self, node, function):
        """Returns the node of the entries of a tensor that a function selects."""

        def interval(box):
            return IntervalBounds(function(box.lower), function(box.upper))

        return self._affine([node], function, interval)

    def _constant(self, node, value):
        """Returns a node that has the same value for all inputs."""

        def function(x):
            return value + 0.0 * x

        return self._affine([node], function, lambda box: IntervalBounds(value, value))

    def _sum(self, first, second):
        def interval(a, b):
            return IntervalBounds(a.lower + b.lower, a.upper + b.upper)

        return self._affine([first, second], ops.add, interval)

    def _difference(self, first, second):
        def interval(a, b):
            return IntervalBounds(a.lower - b.upper, a.upper - b.lower)

        return self._affine([first, second], ops.subtract, interval)

    # max(a, b) = b + relu(a - b). The bounds of a - b know what a and b have in common.
    def _larger(self, first, second):
        return self._sum(second, _curved(self._difference(first, second), RELU))

    def _smaller(self, first, second):
        return self._difference(first, _curved(self._difference(first, second), RELU))

    def _largest_along(self, node, axis, windows):
        """Returns the node of the maximum over windows of entries along an axis.

        Args:
            node: a `Node`.
            axis: int, an axis of one example.
            windows: int array `(windows, size)`, the entries of each window.
        """
        taps = [
            self._selected(node, functools.partial(ops.take, indices=indices, axis=axis + 1))
            for indices in windows.T
        ]
        while len(taps) > 1:
            pairs = zip(taps[0::2], taps[1::2], strict=False)
            taps = [self._larger(*pair) for pair in pairs] + taps[len(taps) // 2 * 2 :]
        return taps[0]


def _windows(length, size, stride, padding):
    """Returns the entries of the windows of a max pooling along an axis, `(windows, size)`."""
    if padding == "same":
        count = -(-length // stride)
        first = -(max((count - 1) * stride + size - length, 0) // 2)
    else:
        count, first = (length - size) // stride + 1, 0
    windows = first + stride * np.arange(count)[:, None] + np.arange(size)
    # The nearest entry is in the same window, so that it does not change the maximum.
    return np.clip(windows, 0, length - 1)


def _curved(node, curve, logits=None):
    def interval(box):
        return IntervalBounds(*curve.range_on(box.lower, box.upper))

    return Node(node.shape, (node,), None, interval, curve, logits)


_NAMES = {
    _Tracer.layer: (
        "Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D "
        "AveragePooling2D AveragePooling3D BatchNormalization Concatenate Conv1D Conv2D Conv3D "
        "Cropping1D Cropping2D Cropping3D Dense Dropout Flatten GaussianDropout GaussianNoise "
        "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D Identity "
        "Normalization Permute RepeatVector Rescaling Reshape SpatialDropout1D SpatialDropout2D "
        "SpatialDropout3D Subtract UpSampling1D ZeroPadding1D ZeroPadding2D ZeroPadding3D"
    ),
    _Tracer.curve: "ELU LeakyReLU ReLU",
    _Tracer.global_max_pooling: "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D",
    _Tracer.max_pooling: "MaxPooling1D MaxPooling2D MaxPooling3D",
    _Tracer.maximum: "Maximum",
    _Tracer.minimum: "Minimum",
    _Tracer.softmax: "Softmax",
}
_RULES = {getattr(_layers, name): rule for rule, names in _NAMES.items() for name in names.split()}
_RULES.update(
    {
        GroupSort: _Tracer.group_sort,
        InputGuard: _Tracer.guard,
        OrthogonalConv2D: _Tracer.layer,
        SpectralDense: _Tracer.layer,
    }
)
