"""Blur: of a lens out of focus, of frosted glass, of a moving camera, and of a zoom."""

import numpy as np

from keras_robust.evaluation.corruption.filters import convolve
from keras_robust.evaluation.corruption.filters import disk_kernel
from keras_robust.evaluation.corruption.filters import motion_kernel
from keras_robust.evaluation.corruption.filters import smooth
from keras_robust.evaluation.corruption.filters import zoom


def defocus_blur(x, rng, radius, alias_stddev):
    """Returns the mean over a disk around each pixel."""
    return convolve(x, disk_kernel(radius, alias_stddev), "reflect")


def glass_blur(x, rng, stddev, distance, rounds):
    """Returns the image with displaced pixels, between two Gaussian blurs.

    From the last pixel to the first, each takes the value of a neighbor at most `distance` away.
    """
    height, width, channels = x.shape
    rows, columns = np.meshgrid(
        np.arange(height - distance, distance, -1),
        np.arange(width - distance, distance, -1),
        indexing="ij",
    )
    sources = list(range(height * width))
    for _ in range(rounds):
        moves = rng.integers(-distance, distance, size=(2, *rows.shape))
        places = rows * width + columns
        others = (rows + moves[0]) * width + columns + moves[1]
        # One after the other, because a neighbor may have been displaced before.
        for place, other in zip(places.ravel().tolist(), others.ravel().tolist(), strict=True):
            sources[place] = sources[other]
    moved = smooth(x, stddev).reshape(-1, channels)[sources].reshape(x.shape)
    return smooth(moved, stddev)


def motion_blur(x, rng, radius, stddev):
    """Returns the blur of a motion of the camera, at most 45 degrees from the horizontal."""
    return convolve(x, motion_kernel(radius, stddev, rng.uniform(-45.0, 45.0)), "edge")


def zoom_blur(x, rng, end, step):
    """Returns the mean of the image and of its enlargements by the factors from 1 to `end`."""
    # The same factors as the authors: `arange` may round `end` in.
    images = [x, *(zoom(x, factor) for factor in np.arange(1.0, end, step))]
    return np.mean(images, axis=0)
