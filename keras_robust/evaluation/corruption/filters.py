"""Filters of single images `(height, width, channels)`."""

import functools
import math

import numpy as np
import scipy.ndimage
import scipy.signal


def convolve(x, kernel, mode):
    """Returns an image after convolution with a kernel of odd sides.

    Args:
        x: float array `(height, width, channels)`.
        kernel: float array of two axes.
        mode: str, how `np.pad` continues the image, such as `"edge"`.
    """
    rows, columns = (side // 2 for side in kernel.shape)
    padded = np.pad(x, ((rows, rows), (columns, columns), (0, 0)), mode=mode)
    # The kernels of large images have thousands of entries, for which the FFT is far faster.
    return scipy.signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


def smooth(x, stddev):
    """Returns an image after a Gaussian blur, `stddev` in pixels."""
    return scipy.ndimage.gaussian_filter(x, (stddev, stddev, 0.0), mode="nearest")


def disk_kernel(radius, alias_stddev):
    """Returns a disk whose edge is blurred, the kernel of a lens that is out of focus.

    Args:
        radius: number, in pixels.
        alias_stddev: number, the standard deviation of the blur of the edge, in pixels.
    """
    reach = 1 if radius <= 8 else 2
    # Room for the blurred edge, so that the entries sum to 1.
    half = math.floor(radius) + reach
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype("float64")
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2.0 * alias_stddev**2))
    taps /= taps.sum()
    for axis in (0, 1):
        disk = scipy.ndimage.convolve1d(disk, taps, axis=axis, mode="constant")
    return disk / disk.sum()


def motion_kernel(radius, stddev, angle):
    """Returns half of a Gaussian along a line, the kernel of a motion blur.

    As in ImageMagick, every pixel becomes the weighted mean of the `2 radius + 1` pixels that
    start at it.

    Args:
        radius: int, in pixels.
        stddev: number, the standard deviation of the Gaussian, in pixels.
        angle: number, the direction of the line in degrees, 0 along a row.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2.0 * stddev**2))
    turn = math.radians(angle)
    rows, columns = (
        np.ceil(steps * part - 0.5).astype(int) for part in (math.sin(turn), math.cos(turn))
    )
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    # A convolution reads against the direction of its kernel. Two steps may end in one pixel.
    np.add.at(kernel, (2 * radius - rows, 2 * radius - columns), weights / weights.sum())
    return kernel


def zoom(x, factor):
    """Returns the middle of an image, enlarged to the size of the image."""
    rows, columns = (_zoom_matrix(side, factor) for side in x.shape[:2])
    return np.moveaxis(np.tensordot(columns, np.tensordot(rows, x, 1), (1, 1)), 0, 1)


# A zoom blur averages up to 26 enlargements, and those of all images have the same matrices.
@functools.lru_cache(maxsize=128)
def _zoom_matrix(side, factor):
    """Returns the matrix `(side, side)` that enlarges the middle of a row of pixels."""
    crop = math.ceil(side / factor)
    start = (side - crop) // 2
    middle = np.eye(side)[start : start + crop]
    large = scipy.ndimage.zoom(middle, (factor, 1), order=1)
    first = (len(large) - side) // 2
    return large[first : first + side]


def sample(x, rows, columns, mode):
    """Returns the image at fractional positions, interpolated between pixels.

    Args:
        x: float array `(height, width, channels)`.
        rows: float array `(height, width)`.
        columns: float array `(height, width)`.
        mode: str, how `scipy.ndimage` continues the image.
    """
    channels = [
        scipy.ndimage.map_coordinates(channel, (rows, columns), order=1, mode=mode)
        for channel in np.moveaxis(x, -1, 0)
    ]
    return np.stack(channels, axis=-1)
