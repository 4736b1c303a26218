"""Steps of JPEG compression: linear maps on levels from 0 to 255, and quantization tables."""

import numpy as np
from keras import ops

BLOCK = 8

# The example tables of ITU-T T.81, Annex K, which libjpeg uses.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((BLOCK, BLOCK), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# JFIF: Y, Cb, Cr from R, G, B; 128 is added to the last two.
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)
_GREY = np.array([0.0, 128.0, 128.0])

_FREQUENCIES, _POSITIONS = np.indices((BLOCK, BLOCK))
# Orthonormal, so that the transposed matrix computes the inverse.
_DCT = np.cos(np.pi * (2 * _POSITIONS + 1) * _FREQUENCIES / (2 * BLOCK)) / 2
_DCT[0] /= np.sqrt(2.0)


def quantization_tables(quality):
    """Returns the luminance and chrominance tables, both `(8, 8)`, scaled as in libjpeg."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = ((table * scale + 50) // 100 for table in (_LUMINANCE, _CHROMINANCE))
    return tuple(np.clip(table, 1, 255) for table in tables)


def to_ycc(rgb):
    """Returns RGB values as luminance and chrominance, `(..., 3)`."""
    return ops.einsum("...c,dc->...d", rgb, _like(_TO_YCC, rgb)) + _like(_GREY, rgb)


def to_rgb(ycc):
    """Returns luminance and chrominance as RGB values: the inverse of `to_ycc`."""
    return ops.einsum("...c,dc->...d", ycc - _like(_GREY, ycc), _like(np.linalg.inv(_TO_YCC), ycc))


def pad(x, rows, columns):
    """Returns images padded to a height and width that are multiples of `rows` and `columns`.

    The padding repeats the last row and column.
    """
    for axis, multiple in ((1, rows), (2, columns)):
        size = x.shape[axis]
        target = -(-size // multiple) * multiple
        if target != size:
            x = ops.take(x, np.minimum(np.arange(target), size - 1), axis=axis)
    return x


def dct(x):
    """Returns the coefficients of all 8 x 8 blocks, `(batch_size, rows, 8, columns, 8, channels)`.

    Args:
        x: float `(batch_size, height, width, channels)`; height and width are multiples of 8.
    """
    _, height, width, channels = x.shape
    rows, columns = height // BLOCK, width // BLOCK
    blocks = ops.reshape(x, (-1, rows, BLOCK, columns, BLOCK, channels))
    matrix = _like(_DCT, x)
    return ops.einsum("ui,vj,bricjd->brucvd", matrix, matrix, blocks)


def inverse_dct(coefficients):
    """Returns images from their coefficients: the inverse of `dct`."""
    _, rows, _, columns, _, channels = coefficients.shape
    matrix = _like(_DCT, coefficients)
    blocks = ops.einsum("ui,vj,brucvd->bricjd", matrix, matrix, coefficients)
    return ops.reshape(blocks, (-1, rows * BLOCK, columns * BLOCK, channels))


def halve(x):
    """Returns images of half the size, means of 2 x 2 squares. Both sides must be even."""
    for axis in (1, 2):
        even, odd = _every_second(x, axis)
        x = (even + odd) / 2.0
    return x


def double(x):
    """Returns images of twice the size: 3/4 of the nearest value and 1/4 of the next per axis."""
    # The triangle filter of libjpeg, "fancy upsampling".
    for axis in (1, 2):
        size = x.shape[axis]
        before = ops.take(x, np.maximum(np.arange(size) - 1, 0), axis=axis)
        after = ops.take(x, np.minimum(np.arange(size) + 1, size - 1), axis=axis)
        pair = ops.stack([(3.0 * x + before) / 4.0, (3.0 * x + after) / 4.0], axis=axis + 1)
        shape = [-1, *x.shape[1:]]
        shape[axis] = 2 * size
        x = ops.reshape(pair, shape)
    return x


def _every_second(x, axis):
    return (x[:, ::2], x[:, 1::2]) if axis == 1 else (x[:, :, ::2], x[:, :, 1::2])


def _like(constant, x):
    return ops.convert_to_tensor(constant, dtype=x.dtype)
