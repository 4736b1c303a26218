"""Sorting activation for Lipschitz networks."""

import keras
from keras import ops

from keras_robust.layers.input_transformation import check_count


@keras.saving.register_keras_serializable(package="keras_robust")
class GroupSort(keras.layers.Layer):
    """Sorts the channels within groups: an activation that keeps every norm of the gradient.

    With `group_size=2` it is MaxMin: `(a, b)` becomes `(min(a, b), max(a, b))`. Its Jacobian is a
    permutation, so the layer is 1-Lipschitz in every norm and, unlike ReLU, shrinks no gradient.
    Networks of orthogonal layers and ReLU cannot approximate even `|x|`; with GroupSort they can
    approximate every 1-Lipschitz function. Use it between layers like `SpectralDense` and
    `OrthogonalConv2D`.

    Deviations from the paper: none. Cost: a sort. The layer has no weights.

    Args:
        group_size: int of at least 2, the channels in a group. The size of the last axis must be a
            multiple of it. Defaults to `2`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: `x`, float `(..., channels)`. Returns the same shape.

    Raises:
        ValueError: if `group_size` is not an int of at least 2, or the number of channels is not a
            multiple of it.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> print(np.array(kr.layers.GroupSort()(np.array([[3.0, 1.0, -2.0, 5.0]]))))
    [[ 1.  3. -2.  5.]]

    References:
        - [Anil et al., 2019](https://arxiv.org/abs/1811.05381)
    """

    def __init__(self, group_size=2, **kwargs):
        super().__init__(**kwargs)
        self.group_size = check_count("group_size", group_size, 2, 10**6)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None or channels % self.group_size:
            raise ValueError(
                f"The number of channels must be a multiple of group_size={self.group_size}. "
                f"Received: inputs of shape {tuple(input_shape)}"
            )

    def call(self, x):
        # For pairs, minimum and maximum are faster than a sort.
        if self.group_size == 2:
            first, second = x[..., 0::2], x[..., 1::2]
            pairs = ops.stack([ops.minimum(first, second), ops.maximum(first, second)], axis=-1)
            return ops.reshape(pairs, ops.shape(x))
        grouped = (*ops.shape(x)[:-1], x.shape[-1] // self.group_size, self.group_size)
        return ops.reshape(ops.sort(ops.reshape(x, grouped), axis=-1), ops.shape(x))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "group_size": self.group_size}
