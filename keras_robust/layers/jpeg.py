"""JPEG compression as a layer."""

import keras
import numpy as np
from keras import ops

from keras_robust.layers import jpeg_steps as steps
from keras_robust.layers.input_transformation import InputTransformation
from keras_robust.layers.input_transformation import check_count

_LEVELS = 255.0
# libjpeg rounds halves away from zero, and means of whole levels often are halves. The margin makes
# a half round away from zero even if floats put it slightly below.
_HALF = 0.5 + 1e-4


@keras.saving.register_keras_serializable(package="keras_robust")
class JPEG(InputTransformation):
    """Compresses images as JPEG and decompresses them: a baseline, not a defense.

    The layer rounds values to 8 bits, turns the three channels R, G and B into luminance and
    chrominance, halves the size of the chrominance, transforms 8 x 8 blocks to frequencies, rounds
    each coefficient `c` to `round(c / q) q` with the quantization tables `q` of the standard, and
    then inverts these steps. A single channel counts as luminance. The backward pass ignores
    rounding and clipping: it is the identity, or with halved chrominance the low-pass filter that
    halving and doubling apply.

    Published attacks: JPEG removes small perturbations whose attacker ignored it (Das et al.,
    2017), but it does not resist attacks through it. With BPDA the JPEG of Guo et al. (2018) and
    their other transformations have 0% accuracy (Athalye et al., 2018).

    With `bpda=False` the gradient is zero, and gradient attacks fail.

    Deviations from the standard: the arithmetic is in floats, so some pixels differ by one level
    from the output of libjpeg. A rare block in which a coefficient lies halfway between two steps
    differs by more. Cost: a few small matrix products for each block.

    Args:
        quality: int from 1 to 100. The literature uses 50 to 85. Defaults to `75`.
        chroma_subsampling: bool, whether chrominance has half the resolution ("4:2:0"), which is
            usual in files. It has no effect on images with one channel. Defaults to `True`.
        bpda: bool, whether to use the gradient of the surrogate instead of zero. Defaults to
            `True`.
        bounds: pair of numbers, or pair of arrays with a number for each channel: the values of
            black and white. Defaults to `(0.0, 1.0)`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: `x`, float `(batch_size, height, width, channels)` of fixed size, with 1 or 3
    channels. Sides that are not multiples of 8 are padded during compression. Returns the same
    shape.

    Raises:
        ValueError: if `quality` is not an int from 1 to 100, `bounds` is not a pair, or the inputs
            have another shape.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x = np.array([0.0, 0.1, 0.3, 0.2, 0.8, 1.0, 0.9, 0.7]) * np.ones((1, 8, 1))
    >>> print(np.round(kr.layers.JPEG(quality=20)(x[..., None])[0, 0, :, 0], 2))
    [0.   0.15 0.31 0.18 0.84 0.95 0.96 0.68]

    References:
        - [Dziugaite et al., 2016](https://arxiv.org/abs/1608.00853)
        - [Das et al., 2017](https://arxiv.org/abs/1705.02900)
        - [Guo et al., 2018](https://arxiv.org/abs/1711.00117)
        - [Athalye et al., 2018](https://arxiv.org/abs/1802.00420)
    """

    def __init__(
        self, quality=75, *, chroma_subsampling=True, bpda=True, bounds=(0.0, 1.0), **kwargs
    ):
        super().__init__(bpda=bpda, bounds=bounds, **kwargs)
        self.quality = check_count("quality", quality, 1, 100)
        self.chroma_subsampling = bool(chroma_subsampling)
        self._luminance, self._chrominance = steps.quantization_tables(quality)

    def build(self, input_shape):
        sizes = tuple(input_shape)[1:]
        if len(sizes) != 3 or None in sizes or sizes[-1] not in (1, 3):
            raise ValueError(
                "JPEG takes images (batch_size, height, width, channels) of a fixed size with 1 or "
                f"3 channels. Received: an input of shape {tuple(input_shape)}"
            )

    def transform(self, x):
        levels = ops.round(self.to_unit(x) * _LEVELS)
        if x.shape[-1] == 1:
            decoded = _code(levels, self._luminance)
        else:
            decoded = self._code_colours(levels)
        decoded = decoded[:, : x.shape[1], : x.shape[2]]
        decoded = ops.clip(ops.round(decoded), 0.0, _LEVELS)
        return self.from_unit(decoded / _LEVELS)

    def surrogate(self, x):
        if not self._halves(x):
            return x
        ycc = steps.to_ycc(steps.pad(self.to_unit(x), 2, 2))
        ycc = ops.concatenate([ycc[..., :1], steps.double(steps.halve(ycc[..., 1:]))], axis=-1)
        return self.from_unit(steps.to_rgb(ycc)[:, : x.shape[1], : x.shape[2]])

    def get_config(self):
        config = {"quality": self.quality, "chroma_subsampling": self.chroma_subsampling}
        return {**super().get_config(), **config}

    def _halves(self, x):
        return self.chroma_subsampling and x.shape[-1] == 3

    def _code_colours(self, rgb):
        ycc = ops.round(steps.to_ycc(rgb))
        luminance = _code(ycc[..., :1], self._luminance)
        chrominance = ycc[..., 1:]
        if self.chroma_subsampling:
            # libjpeg pads the columns of blocks before it halves, and the rows after.
            halved = steps.halve(steps.pad(chrominance, 2, 2 * steps.BLOCK))
            # libjpeg rounds half levels down and up in alternation.
            turns = np.resize([0.25, 0.5], halved.shape[2])[:, None]
            halved = ops.floor(halved + ops.convert_to_tensor(turns, dtype=halved.dtype))
            chrominance = _code(halved, self._chrominance)
            # Cut the padding off, so that doubling does not blend it into the last row and column.
            kept = [(side + 1) // 2 for side in rgb.shape[1:3]]
            chrominance = steps.double(chrominance[:, : kept[0], : kept[1]])
        else:
            chrominance = _code(chrominance, self._chrominance)
        height, width = rgb.shape[1:3]
        luminance, chrominance = (part[:, :height, :width] for part in (luminance, chrominance))
        return steps.to_rgb(ops.concatenate([luminance, chrominance], axis=-1))


def _code(levels, table):
    """Returns channels after quantization and its inverse, as whole levels."""
    divisors = ops.convert_to_tensor(table[:, None, :, None], dtype=levels.dtype)
    coefficients = steps.dct(steps.pad(levels, steps.BLOCK, steps.BLOCK) - 128.0)
    counts = ops.floor(ops.abs(coefficients) / divisors + _HALF)
    coefficients = ops.sign(coefficients) * counts * divisors
    return ops.clip(ops.round(steps.inverse_dct(coefficients) + 128.0), 0.0, _LEVELS)
