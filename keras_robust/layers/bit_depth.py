"""Reduction of the bit depth of inputs."""

import keras
from keras import ops

from keras_robust.layers.input_transformation import InputTransformation
from keras_robust.layers.input_transformation import check_count


@keras.saving.register_keras_serializable(package="keras_robust")
class BitDepth(InputTransformation):
    """Rounds every value to `2^b` levels (feature squeezing): a baseline, not a defense.

    The layer computes `g(x) = round(x (2^b - 1)) / (2^b - 1)` for `x` in `[0, 1]`, mapped to the
    bounds. Its backward pass is the identity. Put it in front of a network to measure how little it
    helps, or use it in `FeatureSqueezingDetector`.

    Published attacks: a perturbation only has to reach the next level, and the gradient of the
    rounded input points there. He et al. (2017) break feature squeezing, alone and combined with
    other squeezers, by attacks that include it. The bit depth of Guo et al. (2018) falls to 0%
    under BPDA, like the other transformations of that paper (Athalye et al., 2018). One bit does
    help on images like MNIST, where most values are 0 or 1 and must cross 0.5; it does not help
    for gray values.

    With `bpda=False` the gradient is zero, and gradient attacks fail.

    Deviations from the paper: none. Cost: negligible.

    Args:
        bits: int from 1 to 16, `b`. The paper uses 1 for MNIST, and 4 or 5 for CIFAR-10.
        bpda: bool, whether to use the identity gradient instead of zero. Defaults to `True`.
        bounds: pair of numbers, or pair of arrays with a number for each channel: the range of
            valid values. Defaults to `(0.0, 1.0)`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: `x`, float, any shape. Returns the same shape in the compute dtype.

    Raises:
        ValueError: if `bits` is not an int from 1 to 16, or `bounds` is not a pair.

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
        # 2^b levels, with both bounds among them, leave 2^b - 1 steps.
        steps = 2.0**self.bits - 1.0
        return self.from_unit(ops.round(self.to_unit(x) * steps) / steps)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}
