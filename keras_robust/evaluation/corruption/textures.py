"""Random textures for fog and frost."""

import numpy as np

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

    # `np.roll` continues the map on its other side, so that its edges need no rule of their own.
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
    # The whole map is scaled, not the part that is returned, as the authors do.
    cloud -= cloud.min()
    return (cloud / cloud.max())[: shape[0], : shape[1]]


def frost_texture(shape, rng):
    """Returns ice on a window, `(height, width, 3)` with values from 0 to 1.

    A film of ice, thick here and thin there, with needles along the three axes of a crystal.

    Args:
        shape: pair of int, height and width.
        rng: `np.random.Generator`.
    """
    film = plasma(shape, 1.6, rng)
    # In large images a line of single pixels would look like noise.
    needles = np.minimum(2.0 * smooth(_needles(shape, rng), min(shape) / 200.0), 1.0)[..., 0]
    ice = np.clip(film * (0.4 + 0.4 * film + 0.6 * needles), 0.0, 1.0)
    # The thicker the ice, the whiter.
    return ice[..., None] ** (2.0 - np.array(_ICE))


def _needles(shape, rng):
    """Returns lines that become thin, in six directions from random points."""
    length = max(min(shape) // 7, 2)
    # About half of the pixels are on a needle.
    count = rng.poisson(0.25 / length * shape[0] * shape[1])
    turns = np.radians(60.0 * (rng.uniform() + rng.integers(6, size=(count, 1))))
    steps = np.arange(2 * length + 1)
    rows, columns = (
        np.rint(rng.uniform(0.0, side, (count, 1)) + steps * part).astype(int)
        for side, part in zip(shape, (np.sin(turns), np.cos(turns)), strict=True)
    )
    heights = np.broadcast_to(np.exp(-0.5 * (steps / length) ** 2), rows.shape)
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    # Needles that cross add up.
    lines = np.zeros((*shape, 1))
    np.add.at(lines[..., 0], (rows[inside], columns[inside]), heights[inside])
    return lines
