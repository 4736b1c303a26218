"""Random textures for fog and frost."""

import numpy as np

from keras_robust.evaluation.corruption.filters import convolve
from keras_robust.evaluation.corruption.filters import motion_kernel
from keras_robust.evaluation.corruption.filters import smooth

_ICE = (0.80, 0.92, 1.0)


def plasma(shape, decay, rng):
    """Returns a cloud, a fractal by the diamond-square algorithm, with values from 0 to 1.

    Args:
        shape: pair of int, height and width.
        decay: number, by whose square the amplitude falls from one scale to the next.
        rng: `np.random.Generator`.
    """
    side = 1 << (max(shape) - 1).bit_length()
    cloud, step, amplitude = np.zeros((side, side)), side, 1.0

    def blend(*neighbors):
        return sum(neighbors) / 4.0 + rng.uniform(-amplitude, amplitude, neighbors[0].shape)

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        rows = corners, np.roll(corners, -1, axis=0)
        middles = blend(*rows, *(np.roll(row, -1, axis=1) for row in rows))
        cloud[half::step, half::step] = middles
        above, left = (np.roll(middles, 1, axis=axis) for axis in (0, 1))
        cloud[::step, half::step] = blend(middles, above, corners, np.roll(corners, -1, axis=1))
        cloud[half::step, ::step] = blend(middles, left, corners, np.roll(corners, -1, axis=0))
        step, amplitude = half, amplitude / decay**2
    cloud -= cloud.min()
    return (cloud / cloud.max())[: shape[0], : shape[1]]


def frost_texture(shape, rng):
    """Returns ice on a window, `(height, width, 3)` with values from 0 to 1.

    A film of ice, thick here and thin there, with needles that grow from random points along the
    three axes of a crystal.

    Args:
        shape: pair of int, height and width.
        rng: `np.random.Generator`.
    """
    side = min(shape)
    film = plasma(shape, 1.6, rng)
    length, turn = max(side // 7, 2), rng.uniform(0.0, 60.0)
    needles = np.zeros((*shape, 1))
    for angle in np.arange(turn, 360.0, 60.0):
        seeds = rng.uniform(size=(*shape, 1)) < 0.04 / length
        kernel = motion_kernel(length, 0.9 * length, angle)
        needles += convolve(seeds / kernel.max(), kernel, "constant")
    needles = np.minimum(2.0 * smooth(needles, side / 200.0), 1.0)[..., 0]
    ice = np.clip(film * (0.4 + 0.4 * film + 0.6 * needles), 0.0, 1.0)
    # The thicker the ice, the whiter.
    return ice[..., None] ** (2.0 - np.array(_ICE))
