"""Fewer bits for each value."""

import keras
from keras import ops

from keras_robust.layers.input_transformation import InputTransformation
from keras_robust.layers.input_transformation import check_count


@keras.saving.register_keras_serializable(package="keras_robust")
class BitDepth(InputTransformation):
    """Rounds every value to `2^b` levels (feature squeezing): a baseline, not a defence.

    `g(x) = round(x (2^b - 1)) / (2^b - 1)` for `x` in `[0, 1]`, mapped to the bounds; backward the
    identity. Put it in front of a network to see how little it helps, or into
    `FeatureSqueezingDetector`.

    How it falls: the perturbation only has to reach the next level, and the gradient of the
    rounded input points there. He et al. (2017) break feature squeezing, alone and with the other
    squeezers, by attacks that know of it; Guo et al.'s (2018) bit depth falls to 0% with the other
    transformations of that paper under BPDA (Athalye et al., 2018). One bit on MNIST-like images,
    most of whose values are 0 or 1, does move the border to 0.5; grey values have no such room.

    With `bpda=False` the gradient is zero, and gradient attacks are blind.

    Deviations from the paper: none. Cost: none beside the model.

    Args:
        bits: int from 1 to 16, `b`: in the paper 1 for MNIST, 4 or 5 for CIFAR-10.
        bpda: bool, whether gradients pass, or are zero. Defaults to `True`.
        bounds: pair of numbers, or of arrays with a number for each channel: the range of valid
            values. Defaults to `(0.0, 1.0)`.
        **kwargs: `name`, `dtype` and others of `keras.layers.Layer`.

    Call arguments: `x`, float, any shape. Returns the same shape in the compute dtype.

    Raises:
        ValueError: if `bits` is no int from 1 to 16, and for bounds that are no pair.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> print(np.round(kr.layers.BitDepth(2)(np.array([[0.1, 0.2, 0.6, 1.0]])), 3))
    [[0.    0.333 0.667 1.   ]]

    References:
        - [Xu et al., 2018](https://arxiv.org/abs/1704.01155)
        - [He et al., 2017](https://arxiv.org/abs/1706.04701)
        - [Guo et al., 2018](https://arxiv.org/abs/1711.00117)
        - [Athalye et al., 2018](https://arxiv.org/abs/1802.00420)
    """

    def __init__(self, bits, *, bpda=True, bounds=(0.0, 1.0), **kwargs):
        super().__init__(bpda=bpda, bounds=bounds, **kwargs)
        self.bits = check_count("bits", bits, 1, 16)

    def transform(self, x):
        steps = 2.0**self.bits - 1.0
        return self.from_unit(ops.round(self.to_unit(x) * steps) / steps)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}
