"""Convolution with Lipschitz constant 1."""

import keras
from keras import ops

from keras_robust.layers.input_transformation import check_count
from keras_robust.layers.orthogonal import orthogonalize


@keras.saving.register_keras_serializable(package="keras_robust")
class OrthogonalConv2D(keras.layers.Layer):
    """A convolution that is orthogonal by construction (BCOP): 1-Lipschitz in L2 at every step.

    A kernel of size `k` is `H` convolved with `k - 1` pairs of two-tap kernels: `[P, I - P]` along
    rows and `[R, I - R]` along columns. `P = U U^T` and `R = V V^T` project on half of the
    channels, and Bjorck's iteration makes `U`, `V` and `H` orthonormal. In the Fourier domain a
    pair is `P + (I - P) e^(i w)`, which is unitary, and a product of unitary matrices is unitary.
    Zero padding restricts the inputs of this operator, and strides restrict its outputs, so its
    norm stays at most 1. If the iteration has not converged, the eigenvalues of `U U^T` are in
    `[0, 1]`, and a pair is a weighted mean of 1 and `e^(i w)`, whose norm is still at most 1.

    A kernel that is orthogonal as a matrix is something else: its convolution can have a Lipschitz
    constant up to the size of the kernel.

    Deviations from the paper: strides drop part of the outputs, where the paper first moves pixels
    into channels. Strided layers therefore lose some of the gradient. Cost: the convolution, and
    `num_steps` products of matrices of the size of the channels for each projector, whatever the
    batch size.

    Args:
        filters: int.
        kernel_size: int, height and width of the square kernel. Defaults to `3`.
        strides: int. Defaults to `1`.
        padding: `"same"` (zeros) or `"valid"`. Defaults to `"same"`.
        use_bias: bool. Defaults to `True`.
        num_steps: int, steps of Bjorck's iteration. Defaults to `15`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: `x`, float `(batch_size, height, width, channels)`. Returns the same shape as
    `Conv2D`.

    Raises:
        ValueError: for sizes that are not positive ints, and for an unknown padding.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> layer = kr.layers.OrthogonalConv2D(4, 3, use_bias=False)
    >>> x = np.zeros((1, 9, 9, 4), "float32")
    >>> x[:, 3:6, 3:6] = np.random.default_rng(0).normal(size=(1, 3, 3, 4))
    >>> print(f"{np.linalg.norm(layer(x)) / np.linalg.norm(x):.3f}")
    1.000

    References:
        - [Li et al., 2019](https://arxiv.org/abs/1911.00937)
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        *,
        strides=1,
        padding="same",
        use_bias=True,
        num_steps=15,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if padding not in ("same", "valid"):
            raise ValueError(
                f'Argument `padding` must be "same" or "valid". Received: padding={padding!r}'
            )
        self.filters = check_count("filters", filters, 1, 10**6)
        self.kernel_size = check_count("kernel_size", kernel_size, 1, 100)
        self.strides = check_count("strides", strides, 1, 100)
        self.padding = padding
        self.use_bias = bool(use_bias)
        self.num_steps = check_count("num_steps", num_steps, 1, 100)
        self.bias = None

    def build(self, input_shape):
        channels = input_shape[-1]
        # Construct a square operator, and cut it to the channels of the input at the end.
        width = max(channels, self.filters)
        half = max(1, width // 2)
        self.head = self.add_weight(
            name="head", shape=(width, self.filters), initializer="orthogonal"
        )
        self.halves = [
            self.add_weight(name=f"half_{index}", shape=(width, half), initializer="orthogonal")
            for index in range(2 * (self.kernel_size - 1))
        ]
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self._channels = channels

    def effective_kernel(self):
        """Returns the kernel, float32 `(kernel_size, kernel_size, channels, filters)`."""
        # In float32, because the rounding of half precision would break the bound of 1.
        head = orthogonalize(ops.cast(self.head, "float32"), self.num_steps)
        kernel = ops.reshape(head, (1, 1, *head.shape))
        for index, half in enumerate(self.halves):
            basis = orthogonalize(ops.cast(half, "float32"), self.num_steps)
            projector = ops.matmul(basis, ops.transpose(basis))
            kept = ops.matmul(projector, kernel)
            # The two taps lie next to each other along alternating axes.
            kernel = _add_shifted(kept, kernel - kept, axis=index % 2)
        return kernel[:, :, : self._channels]

    def convolution_op(self, x, kernel):
        """Returns the convolution of `x` with any kernel of this shape, without the bias."""
        return ops.conv(x, kernel, self.strides, self.padding, data_format="channels_last")

    def call(self, x):
        y = self.convolution_op(x, ops.cast(self.effective_kernel(), x.dtype))
        return y if self.bias is None else y + ops.cast(self.bias, y.dtype)

    def compute_output_shape(self, input_shape):
        batch, *image, _ = input_shape
        reach = 0 if self.padding == "same" else self.kernel_size - 1
        sizes = (None if size is None else -(-(size - reach) // self.strides) for size in image)
        return (batch, *sizes, self.filters)

    def get_config(self):
        names = ("filters", "kernel_size", "strides", "padding", "use_bias", "num_steps")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _add_shifted(first, second, axis):
    """Returns the first kernel plus the second one shifted by one pixel along an image axis."""
    before, after = [(0, 0)] * 4, [(0, 0)] * 4
    before[axis], after[axis] = (0, 1), (1, 0)
    return ops.pad(first, before) + ops.pad(second, after)
