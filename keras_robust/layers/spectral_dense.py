"""Dense layer with Lipschitz constant 1."""

import keras
from keras import ops

from keras_robust.layers.input_transformation import check_count
from keras_robust.layers.orthogonal import orthogonalize


@keras.saving.register_keras_serializable(package="keras_robust")
class SpectralDense(keras.layers.Dense):
    """A dense layer whose matrix is nearly orthogonal: 1-Lipschitz in L2 at every step.

    `y = x Q + b`. Every call computes `Q` from the trained kernel `W`: it divides `W` by an upper
    bound of its largest singular value, and then runs Bjorck's iteration
    `Q <- 1.5 Q - 0.5 Q Q^T Q`, which moves every singular value towards 1 and never above it. The
    layer is therefore 1-Lipschitz for any `num_steps`, up to the rounding of float32, and preserves
    the norm of most gradients. `certify(..., method="lipschitz")` does not rely on this: it
    computes the singular values of `Q` again.

    `keras.layers.SpectralNormalization(Dense(...))` gives no such guarantee: one power iteration
    per step may leave a norm above 1, it shrinks all singular values but the largest, and it
    assigns to the kernel.

    Deviations from the paper: a bound from the powers of `W^T W` (`orthogonal.spectral_bound`)
    replaces power iterations. The bound needs no state, so inference and training compute the same
    function. Cost: `num_steps` products of matrices of the size of the kernel for each call,
    whatever the batch size.

    Args:
        units: int.
        num_steps: int, steps of Bjorck's iteration. Defaults to `15`.
        **kwargs: other arguments of `keras.layers.Dense`. An activation should be 1-Lipschitz;
            `GroupSort` as the next layer is best. The default initializer is orthogonal.

    Call arguments: `x`, float `(batch_size, ..., features)`. Returns `(batch_size, ..., units)`.

    Raises:
        ValueError: if `num_steps` is not an int from 1 to 100.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> layer = kr.layers.SpectralDense(3, kernel_initializer="glorot_uniform")
    >>> layer.build((None, 5))
    >>> print(np.round(np.linalg.svd(layer.effective_kernel(), compute_uv=False), 3))
    [1. 1. 1.]

    References:
        - [Anil et al., 2019](https://arxiv.org/abs/1811.05381)
        - [Bjorck and Bowie, 1971](https://doi.org/10.1137/0708036)
    """

    def __init__(self, units, *, num_steps=15, kernel_initializer="orthogonal", **kwargs):
        super().__init__(units, kernel_initializer=kernel_initializer, **kwargs)
        self.num_steps = check_count("num_steps", num_steps, 1, 100)

    def effective_kernel(self):
        """Returns `Q`, float32 `(features, units)`."""
        # In float32, because the rounding of half precision would break the bound of 1.
        return orthogonalize(ops.cast(self.kernel, "float32"), self.num_steps)

    def call(self, x, training=None):
        y = ops.matmul(x, ops.cast(self.effective_kernel(), x.dtype))
        if self.bias is not None:
            y = y + ops.cast(self.bias, y.dtype)
        return y if self.activation is None else self.activation(y)

    def get_config(self):
        return {**super().get_config(), "num_steps": self.num_steps}
