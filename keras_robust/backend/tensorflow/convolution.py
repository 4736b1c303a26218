"""TensorFlow: faster gradients of convolutions with respect to images.

On a CPU, the gradient for an input of 1 or 3 channels takes as long as the gradient for 16
channels, because the other lanes of the vector unit are wasted. The waste is a quarter of the time
of an attack. Here, one strided convolution computes the gradients of a block of pixels as its
channels. The sums are the same.
"""

import contextlib
import math

import keras
import numpy as np
import tensorflow as tf

from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.patched import patched

_LANES = 16  # Number of float32 values in the widest vectors of a CPU.
# A smaller saving is lost again, because the bias is no longer added within the convolution.
_LEAST_SAVING = 2.5


@contextlib.contextmanager
def fast_input_gradients(model):
    """Speeds up the input gradients of convolutions over few channels inside the context.

    This happens only on CPUs, and only where it saves enough: for 5 x 5 kernels over 1 to 3
    channels and for 3 x 3 kernels over one channel, but not for 3 x 3 kernels over three. The
    outputs stay the same. So do the gradients, except for rounding where strides are larger than 1.
    Subclasses of `Conv2D` are not changed, nor layers with their own `convolution_op`.

    Args:
        model: a `keras.Model`, or a callable, for which the context does nothing.
    """
    on_gpu = bool(tf.config.get_visible_devices("GPU"))
    layers = [] if on_gpu else [layer for layer in layers_of(model) if _gains(layer)]
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(patched(layer, "convolution_op", _ByBlocks))
        yield


class _ByBlocks:
    """Replaces `layer.convolution_op`."""

    def __init__(self, layer):
        self.layer = layer
        self.block = _block(layer)

    def __call__(self, x, kernel):
        layer, size = self.layer, x.shape[1:3]
        # The blocks are planned in Python, which needs the size of the image.
        if None in size:
            return type(layer).convolution_op(layer, x, kernel)

        @tf.custom_gradient
        def convolve(x, kernel):
            def gradient(upstream):
                same, stride = layer.padding == "same", layer.strides[0]
                to_input = input_gradient(upstream, kernel, size, stride, same, self.block)
                # TensorFlow removes this operation from the graph if nobody uses its result.
                to_kernel = tf.raw_ops.Conv2DBackpropFilter(
                    input=x,
                    filter_sizes=kernel.shape,
                    out_backprop=upstream,
                    strides=[1, stride, stride, 1],
                    padding=layer.padding.upper(),
                )
                return to_input, to_kernel

            return type(layer).convolution_op(layer, x, kernel), gradient

        return convolve(x, tf.convert_to_tensor(kernel))


def input_gradient(upstream, kernel, size, stride, same, block):
    """Returns the gradient of a convolution at its input, `(batch_size, *size, channels)`.

    Args:
        upstream: gradient at the output, `(batch_size, rows, columns, filters)`.
        kernel: kernel of the convolution, `(rows, columns, channels, filters)`.
        size: pair of ints, rows and columns of the input.
        stride: int.
        same: bool, whether the padding is "same" (otherwise it is "valid").
        block: int, a multiple of `stride`: the edge length of the blocks.
    """
    plans = [
        _Axis(size[axis], upstream.shape[1 + axis], kernel.shape[axis], stride, same, block)
        for axis in (0, 1)
    ]
    # The padding adds a tap of zeros, which `_Axis.taps` uses for pixels without a tap.
    kernel = tf.pad(kernel, [[0, 1], [0, 1], [0, 0], [0, 0]])
    for axis, plan in enumerate(plans):
        kernel = tf.gather(kernel, plan.taps.ravel(), axis=axis)
    lengths = [len(plan.taps) for plan in plans]
    channels, filters = kernel.shape[2:]
    kernel = tf.reshape(kernel, (lengths[0], block, lengths[1], block, channels, filters))
    kernel = tf.transpose(kernel, (0, 2, 5, 1, 3, 4))
    kernel = tf.reshape(kernel, (*lengths, filters, block * block * channels))
    padding = [[0, 0], *(plan.padding for plan in plans), [0, 0]]
    blocks = tf.nn.conv2d(upstream, kernel, block // stride, padding)
    pixels = tf.nn.depth_to_space(blocks, block) if block > 1 else blocks
    return pixels[:, : size[0], : size[1]]


class _Axis:
    """The taps that connect outputs with the pixels of a block, along one axis.

    Attributes: `taps`, int `(outputs, block)`, the index of the tap, or the length of the kernel
    where there is none; `padding`, a pair, the padding of the gradients at the outputs.
    """

    def __init__(self, size, outputs, length, stride, same, block):
        before = max((outputs - 1) * stride + length - size, 0) // 2 if same else 0
        # Relative to the block, pixel u uses tap u + before - stride * r of output r.
        first = math.ceil((before - length + 1) / stride)
        last = (block - 1 + before) // stride
        pixels, near = np.arange(block), np.arange(first, last + 1)
        taps = pixels[None] + before - stride * near[:, None]
        self.taps = np.where((taps >= 0) & (taps < length), taps, length)
        end = (math.ceil(size / block) - 1) * (block // stride) + last
        self.padding = [-first, max(end - (outputs - 1), 0)]


def _gains(layer):
    """Returns whether blocks support a layer, and speed it up."""
    # A subclass, or an attribute that somebody set, may compute something else than a convolution.
    if type(layer) is not keras.layers.Conv2D or not layer.built:
        return False
    if not isinstance(vars(layer).get("convolution_op"), (_ByBlocks, type(None))):
        return False
    plain = layer.groups == 1 and layer.data_format == "channels_last"
    plain = plain and tuple(layer.dilation_rate) == (1, 1)
    return plain and layer.strides[0] == layer.strides[1] and _saving(layer) >= _LEAST_SAVING


def _saving(layer):
    """Returns the factor by which blocks reduce the number of multiplications of vectors."""
    rows, columns, channels, _ = layer.kernel.shape
    stride, block = layer.strides[0], _block(layer)
    outputs = math.prod((block + length - 2) // stride + 1 for length in (rows, columns))
    # A vector that is partly used costs as much as a full one.
    vectors = [math.ceil(pixels * channels / _LANES) for pixels in (1, block**2)]
    usual, by_blocks = rows * columns / stride**2, outputs / block**2
    return usual * vectors[0] / (by_blocks * vectors[1])


def _block(layer):
    """Returns the edge length of the blocks: as many pixels as the lanes hold."""
    channels, stride = layer.kernel.shape[2], layer.strides[0]
    return stride * max(1, int(math.sqrt(_LANES / channels)) // stride)
