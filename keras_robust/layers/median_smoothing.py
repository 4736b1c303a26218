"""Median filter for images."""

import keras
from keras import ops

from keras_robust.layers.input_transformation import check_count


@keras.saving.register_keras_serializable(package="keras_robust")
class MedianSmoothing(keras.layers.Layer):
    """Replaces every value by the median of a window around it (feature squeezing): a baseline.

    The layer filters each channel separately and mirrors images at their borders. The gradient of
    a median goes to the value of the window that was chosen, so the layer masks no gradient and
    needs no surrogate. As in `scipy.ndimage`, a window of even size extends one pixel further to
    the top left, and the median of an even number of values is the upper of the two middle ones.

    Published attacks: the layer has gradients, so a plain attack on the whole model passes through
    it. As a detector it fails against attacks that include it (He et al., 2017).

    Deviations from the paper: none; the layer computes `scipy.ndimage.median_filter`, which the
    authors use. Cost: a sort of `size^2` values for every value.

    Args:
        size: int from 1 to 9, the side of the window. The paper uses 2 or 3. Defaults to `2`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: `x`, float `(batch_size, height, width, channels)`. Returns the same shape.

    Raises:
        ValueError: if `size` is not an int from 1 to 9, or the inputs are not images.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x = np.array([[0.1, 0.2, 0.3], [0.4, 0.9, 0.6], [0.7, 0.8, 0.5]], "float32")
    >>> print(np.asarray(kr.layers.MedianSmoothing(3)(x.reshape(1, 3, 3, 1)))[0, ..., 0])
    [[0.2 0.3 0.3]
     [0.4 0.5 0.5]
     [0.7 0.7 0.6]]

    References:
        - [Xu et al., 2018](https://arxiv.org/abs/1704.01155)
        - [He et al., 2017](https://arxiv.org/abs/1706.04701)
    """

    def __init__(self, size=2, **kwargs):
        super().__init__(**kwargs)
        self.size = check_count("size", size, 1, 9)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, x):
        before = self.size // 2
        after = self.size - 1 - before
        _, height, width, _ = ops.shape(x)
        # `scipy.ndimage` calls this mode "reflect", its default.
        padded = ops.pad(x, [[0, 0], [before, after], [before, after], [0, 0]], mode="symmetric")
        window = [
            padded[:, row : row + height, column : column + width]
            for row in range(self.size)
            for column in range(self.size)
        ]
        return ops.sort(ops.stack(window, axis=-1), axis=-1)[..., self.size**2 // 2]

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "size": self.size}
