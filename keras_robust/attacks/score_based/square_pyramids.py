"""The moves of the Square attack in `L2` and `L1`: two-lobed pyramids."""

import numpy as np
from keras import ops

from keras_robust.attacks.score_based.square_windows import Windows
from keras_robust.backend import counter_rng

_TILES = 5
_SMALLEST = 3
_TINY = 1e-12
_INSIDE = 1.0 - 1e-6
# Slightly less than 1, so that a pyramid on top of its own negative does not vanish.
_OLD = 0.999


class PyramidMoves:
    """Adds a pyramid to one window, with norm from that window, another one and the unused rest.

    Let `d` be the change so far, `W1` and `W2` the windows, `v` the pyramid and `s` a sign per
    channel `i`. In `W2`, `d_i` becomes 0. In `W1`, it becomes a multiple of
    `s_i v + d_i / ||d_i||_W1`. Its norm uses what `d_i` had in both windows, and an equal share of
    the part of `epsilon` that is not used yet. In `L1` the norm is multiplied by the number of
    channels. The projection onto ball and box then takes the same amount from every pixel, so that
    small changes vanish.

    Args:
        x: float tensor `(batch_size, ...)`, the examples.
        threat_model: an `L1` or `L2`.
        keys: uint32 tensor `(batch_size,)`, from `counter_rng.make_keys`.
        shape: `(height, width, channels)`, the shape to which examples are reshaped.
        p_init: float, the share of the image that the first windows cover.
        order: 1 or 2, the order of the norm.
    """

    def __init__(self, x, threat_model, keys, shape, p_init, order):
        self.x, self.threat_model = x, threat_model
        self.shape, self.keys, self.order = shape, keys, order
        # A single pixel is no pyramid, but vectors and tiny images have no room for larger windows.
        smallest = _SMALLEST if min(shape[:2]) >= _TILES else 1
        self.windows = Windows(*shape[:2], p_init, smallest=smallest, odd=True)
        canvases = [canvas(size, shape[:2], order) for size in self.windows.sizes]
        self.canvases = np.stack(canvases).astype("float32")
        radius = ops.reshape(threat_model.radius, (-1, 1, 1, 1))
        # In L2 changes are in units of the radius, because squares of large changes overflow
        # float32.
        self.unit = ops.where(radius > 0.0, radius, 1.0) if order == 2 else 1.0
        # The budget is a power of the norm, because powers add up over pixels. `_INSIDE` leaves
        # slack for rounding.
        self.budget = (_INSIDE * radius / self.unit) ** order
        self.ball = threat_model.scaled(_INSIDE)

    def start(self):
        """Returns a mosaic of pyramids with random signs, scaled to the ball, as images."""
        height, width, channels = self.shape
        tiles, count = mosaic(height, width)
        pyramids = np.stack([tile_pyramids(tiles, turned, self.order) for turned in (0, 1)])
        bits = counter_rng.draw(self.keys, 0, count * (1 + channels))
        bits = ops.reshape(bits, (-1, count, 1 + channels))
        bits = ops.take(bits, np.maximum(tiles, 0).reshape(-1), axis=1)
        bits = ops.reshape(bits, (-1, height, width, 1 + channels))
        pyramids = pyramids.astype("float32")[..., None]
        change = ops.where(counter_rng.is_heads(bits[..., :1]), pyramids[1], pyramids[0])
        change = change * counter_rng.signs(bits[..., 1:])
        cost = ops.sum(self._powers(change), axis=(1, 2, 3), keepdims=True)
        return self._moved(change * self._root(self.budget / (cost + _TINY)))

    def propose(self, x_adv, query, stage):
        """Returns images with one more pyramid each."""
        change = (x_adv - self._image(self.x)) / self.unit
        bits = counter_rng.draw(self.keys, query, 5 + self.shape[2])
        edges = self.windows.place(bits[:, :2], stage)
        window = self._pixels(self.windows.mask(edges, stage))
        donor = self._pixels(self.windows.mask(self.windows.place(bits[:, 2:4], stage), stage))
        both = ops.maximum(window, donor)
        pyramid = self._pyramid(edges, stage, counter_rng.is_heads(bits[:, 4]))
        powers = self._powers(change)
        old = window * change * (_OLD / (self._root(_total(powers * window)) + _TINY))
        new = pyramid * counter_rng.signs(bits[:, None, None, 5:]) + old
        left = (self.budget - ops.sum(powers, axis=(1, 2, 3), keepdims=True)) / self.shape[2]
        budget = ops.maximum(left + _total(powers * both), 0.0)
        if self.order == 1:
            budget = budget * self.shape[2]
        new = new * self._root(budget / (_total(self._powers(new)) + _TINY))
        return self._moved(change * (1.0 - both) + new)

    def _pyramid(self, edges, stage, turned):
        """Returns pyramids in the windows, float32 `(batch_size, height, width, 1)`."""
        height, width, _ = self.shape
        flat = ops.reshape(ops.take(self.canvases, stage, axis=0), (-1,))
        top, left = (ops.cast(edge, "int32") for edge in edges)
        # The canvas holds the pyramid in its corner. Rolling the canvas moves it to the window.
        rows = ops.mod(ops.arange(height, dtype="int32") - top[:, None], height)
        columns = ops.mod(ops.arange(width, dtype="int32") - left[:, None], width)
        rows = rows + height * ops.cast(turned, "int32")[:, None]
        places = rows[:, :, None] * width + columns[:, None, :]
        return ops.take(flat, places, axis=0)[..., None]

    def _moved(self, change):
        """Returns the images after a change, clipped to the box or projected onto ball and box."""
        x_adv = self.x + ops.reshape(self.unit * change, ops.shape(self.x))
        if self.order == 1 and self.shape[2] > 1:
            return self._image(self.ball.project(x_adv, self.x))
        return self._image(self.threat_model.clip(x_adv))

    def _image(self, x):
        return ops.reshape(x, (-1, *self.shape))

    def _powers(self, change):
        return ops.square(change) if self.order == 2 else ops.abs(change)

    def _root(self, powers):
        return ops.sqrt(powers) if self.order == 2 else powers

    @staticmethod
    def _pixels(mask):
        return ops.cast(mask, "float32")


def _total(powers):
    return ops.sum(powers, axis=(1, 2), keepdims=True)


def canvas(size, extents, order):
    """Returns both pyramids of a window in the corner of an empty image, `(2, height, width)`."""
    images = np.zeros((2, *extents))
    for turned, image in enumerate(images):
        image[: size[0], : size[1]] = pyramid(*size, turned, order)
    return images


def pyramid(height, width, turned, order):
    """Returns two adjacent lobes of opposite sign, of norm 1 together."""
    # A single row has no room for lobes on top of each other.
    if width > 1 and (turned or height == 1):
        return _lobes(width, height, order).T
    return _lobes(height, width, order)


def _lobes(height, width, order):
    half = height // 2
    lobes = np.concatenate([_lobe(half, width, order), -_lobe(height - half, width, order)])
    return lobes / np.linalg.norm(lobes.reshape(-1), ord=order)


def _lobe(height, width, order):
    """Returns `sum_k 1 / (k + 1)^e` over the centered squares of half-width `k` with the pixel."""
    rows = np.abs(np.arange(height) - height // 2)[:, None]
    distance = np.maximum(rows, np.abs(np.arange(width) - width // 2)[None])
    count = max(height, width) // 2 + 1
    terms = 1.0 / np.arange(1, count + 1) ** (2 if order == 2 else 4)
    lobe = sum(terms[k] * (distance <= k) for k in range(count))
    return lobe / max(np.linalg.norm(lobe.reshape(-1), ord=order), _TINY)


def mosaic(height, width):
    """Returns the index of the tile of each pixel, -1 outside, and the number of tiles."""
    rows, columns = _tiles(height), _tiles(width)
    across = columns.max() + 1
    tiles = np.where(
        (rows[:, None] < 0) | (columns[None] < 0), -1, rows[:, None] * across + columns
    )
    return tiles, int(tiles.max()) + 1


def _tiles(extent):
    """Returns the index of the tile of each pixel along one axis, -1 outside of the tiles."""
    size = max(extent // _TILES, 1)
    count = min(extent // size, _TILES)
    places = (np.arange(extent) - (extent - count * size) // 2) // size
    return np.where((places >= 0) & (places < count), places, -1)


def tile_pyramids(tiles, turned, order):
    """Returns an image with a pyramid in each tile."""
    image = np.zeros(tiles.shape)
    for tile in range(tiles.max() + 1):
        inside = tiles == tile
        size = (inside.any(axis=1).sum(), inside.any(axis=0).sum())
        image[inside] = pyramid(*size, turned, order).reshape(-1)
    return image
