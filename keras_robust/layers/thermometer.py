"""Every value as a column of zeros and ones."""

import keras
from keras import ops

from keras_robust.layers.input_transformation import InputTransformation
from keras_robust.layers.input_transformation import check_count

# In levels. Wider than one, so that the gradient sees the thresholds that are near but not next.
_RAMP = 2.0


@keras.saving.register_keras_serializable(package="keras_robust")
class Thermometer(InputTransformation):
    """Thermometer encoding: the level of a value as cumulated one-hot channels. Not a defence.

    Channel `k = 0 ... l - 1` of a value `x` in `[0, 1]` is `1[x >= k / l]`; channel 0 is always 1.
    Meant to break the linearity of networks. Backward, the step at each threshold is a ramp,
    `clip((x - k / l) / w + 1/2, 0, 1)` with `w = 2 / l`, so that the gradient sees the thresholds
    within one level on either side; channel 0 has none.

    How it falls: on CIFAR-10 at 8/255 the encoding alone has 0% accuracy under BPDA; with
    adversarial training about 30%, below the 47% of adversarial training without the encoding
    (Athalye et al., 2018).

    With `bpda=False` the gradient is zero, and gradient attacks are blind.

    Deviations from the paper: the code is cumulated from below, so that ones stand for low
    channels (a permutation with the complement). Athalye et al. start the ramp at the threshold,
    which shows an attack only the channels that are on already: on the digits at 0.15, PGD-30 then
    leaves 32% of the examples right, and with the centred ramp 19%. Cost: the first layer of the
    network sees `levels` times as many channels.

    Args:
        levels: int from 2 to 256, `l`. Defaults to `16`, as in the paper.
        bpda: bool, whether gradients are those of the ramps, or zero. Defaults to `True`.
        bounds: pair of numbers, or of arrays with a number for each channel: the range of valid
            values. Defaults to `(0.0, 1.0)`.
        **kwargs: `name`, `dtype` and others of `keras.layers.Layer`.

    Call arguments: `x`, float `(..., channels)`. Returns `(..., channels * levels)`, zeros and
    ones, the levels of a channel next to each other.

    Raises:
        ValueError: if `levels` is no int from 2 to 256, and for bounds that are no pair.

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
        # No input in the bounds crosses the threshold at the lower bound.
        always = ops.arange(self.levels, dtype="int32") == 0
        return self._as_channels(ops.where(always, ops.ones_like(ramps), ramps))

    def compute_output_shape(self, input_shape):
        *rest, channels = input_shape
        return (*rest, None if channels is None else channels * self.levels)

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}

    def _above(self, x):
        """Returns how many levels `x` is above each threshold, `(..., channels, levels)`."""
        thresholds = ops.arange(self.levels, dtype=x.dtype)
        return self.to_unit(x)[..., None] * self.levels - thresholds

    def _as_channels(self, values):
        shape = ops.shape(values)
        return ops.reshape(values, (*shape[:-2], values.shape[-2] * self.levels))
