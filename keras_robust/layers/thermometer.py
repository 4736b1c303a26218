"""Thermometer encoding of inputs."""

import keras
from keras import ops

from keras_robust.layers.input_transformation import InputTransformation
from keras_robust.layers.input_transformation import check_count

# Width of the ramps in levels. It is more than 1, so that a gradient sees more than one threshold.
_RAMP = 2.0


@keras.saving.register_keras_serializable(package="keras_robust")
class Thermometer(InputTransformation):
    """Thermometer encoding: the level of a value as cumulative one-hot channels. Not a defense.

    Channel `k = 0 ... l - 1` of a value `x` in `[0, 1]` is `1[x >= k / l]`, so channel 0 is always
    1. The encoding was meant to break the linearity of networks. In the backward pass a ramp
    replaces the step at each threshold, `clip((x - k / l) / w + 1/2, 0, 1)` with `w = 2 / l`, so
    that the gradient includes the thresholds within one level on either side. Channel 0 has no
    gradient.

    Published attacks: on CIFAR-10 at 8/255 the encoding alone has 0% accuracy under BPDA. With
    adversarial training it has about 30%, below the 47% of adversarial training without the
    encoding (Athalye et al., 2018).

    With `bpda=False` the gradient is zero, and gradient attacks fail.

    Deviations from the paper: the ones fill the channels from the lowest up, not from the highest
    down. This only reorders the channels and swaps 0 and 1. Athalye et al. start the ramp at the
    threshold, so that an attack sees only the channels that are already on: on the digits at 0.15,
    32% of the examples survive PGD-30 with their ramp, and 19% with the centered ramp. Cost: the
    first layer of the network has `levels` times as many input channels.

    Args:
        levels: int from 2 to 256, `l`. Defaults to `16`, the value of the paper.
        bpda: bool, whether to use the gradient of the ramps instead of zero. Defaults to `True`.
        bounds: pair of numbers, or pair of arrays with a number for each channel: the range of
            valid values. Defaults to `(0.0, 1.0)`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: `x`, float `(..., channels)`. Returns `(..., channels * levels)`, zeros and
    ones, with the levels of a channel next to each other.

    Raises:
        ValueError: if `levels` is not an int from 2 to 256, or `bounds` is not a pair.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> print(np.asarray(kr.layers.Thermometer(levels=4)(np.array([[0.1], [0.5], [0.9]]))))
    [[1. 0. 0. 0.]
     [1. 1. 1. 0.]
     [1. 1. 1. 1.]]

    References:
        - [Buckman et al., 2018](https://openreview.net/forum?id=S18Su--CW)
        - [Athalye et al., 2018](https://arxiv.org/abs/1802.00420)
    """

    def __init__(self, levels=16, *, bpda=True, bounds=(0.0, 1.0), **kwargs):
        super().__init__(bpda=bpda, bounds=bounds, **kwargs)
        self.levels = check_count("levels", levels, 2, 256)

    def transform(self, x):
        return self._as_channels(ops.cast(self._above(x) >= 0.0, x.dtype))

    def surrogate(self, x):
        ramps = ops.clip(self._above(x) / _RAMP + 0.5, 0.0, 1.0)
        # No input within the bounds crosses the lowest threshold, so its gradient is zero.
        always = ops.arange(self.levels, dtype="int32") == 0
        return self._as_channels(ops.where(always, ops.ones_like(ramps), ramps))

    def compute_output_shape(self, input_shape):
        *rest, channels = input_shape
        return (*rest, None if channels is None else channels * self.levels)

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}

    def _above(self, x):
        """Returns how many levels `x` is above each threshold, `(..., channels, levels)`."""
        # In units of a level, thresholds are whole numbers, which floats hold exactly.
        thresholds = ops.arange(self.levels, dtype=x.dtype)
        return self.to_unit(x)[..., None] * self.levels - thresholds

    def _as_channels(self, values):
        shape = ops.shape(values)
        return ops.reshape(values, (*shape[:-2], values.shape[-2] * self.levels))
