"""The Square attack for one image, with loops and slices in float64."""

import math

import numpy as np

from tests.support import hashing
from tests.support import numpy_reference

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def attack(score, x, seed, norm, epsilon, *, bounds, num_queries, p_init, rescale_schedule=False):
    """Returns the last accepted point, its loss, whether it won, and the number of queries.

    Where no point has a higher loss than the image, it is the image that comes back.

    Args:
        score: function from an image `(height, width, channels)` to a loss, a success above 0.
        x: the image; `height == width`.
        seed: pair of integers.
    """
    x, key = x.astype("float64"), hashing.key(seed)
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    start, propose = {"Linf": (_stripes, _signs), "L2": (_mosaic, _pyramid)}.get(
        norm, (_mosaic, _pyramid)
    )
    order = {"Linf": np.inf, "L2": 2, "L1": 1}[norm]
    x_adv = np.clip(x + start(x, key, epsilon, order), low, high)
    loss = score(x_adv)
    for window in range(num_queries - 1):
        if loss > 0:
            return x_adv, loss, True, window + 1
        step = window * 10000 // num_queries if rescale_schedule else window
        share = p_init / 2 ** sum(step > after for after in HALVINGS)
        candidate = propose(x_adv - x, key, window + 1, share, epsilon, order)
        if norm == "L1":
            point, clean = (image.reshape(1, -1) for image in (x + candidate, x))
            inside = epsilon * (1.0 - 1e-6)
            point = numpy_reference.project(point, clean, "L1", inside, (low, high))
            candidate = point.reshape(x.shape) - x
        candidate = np.clip(x + candidate, low, high)
        new = score(candidate)
        if new > loss:
            x_adv, loss = candidate, new
    if loss <= score(x):
        x_adv, loss = x, score(x)
    return x_adv, loss, loss > 0, num_queries


def _stripes(x, key, epsilon, order):
    _, width, channels = x.shape
    bits = hashing.draw(key, 0, width * channels)
    signs = np.array([hashing.sign(bit) for bit in bits]).reshape(1, width, channels)
    return epsilon * np.broadcast_to(signs, x.shape)


def _signs(delta, key, query, share, epsilon, order):
    height, width, channels = delta.shape
    side = max(round(math.sqrt(share * height * width)), 1)
    top, left, *signs = hashing.draw(key, query, 2 + channels)
    top, left = hashing.below(top, height - side + 1), hashing.below(left, width - side + 1)
    change = np.zeros_like(delta)
    for channel, bit in enumerate(signs):
        sign = hashing.sign(bit)
        change[top : top + side, left : left + side, channel] = 2.0 * epsilon * sign
    return np.clip(delta + change, -epsilon, epsilon)


def eta(side, order):
    """Two lobes, one above the other, of the norm 1."""
    lobes = np.zeros((side, side))
    half = side // 2
    lobes[:half] = _lobe(half, side, order)
    lobes[half:] = -_lobe(side - half, side, order)
    return lobes / np.linalg.norm(lobes.reshape(-1), ord=order)


def _lobe(height, width, order):
    lobe, rows, columns = np.zeros((height, width)), height // 2, width // 2
    for k in range(max(rows, columns) + 1):
        square = slice(max(rows - k, 0), rows + k + 1), slice(max(columns - k, 0), columns + k + 1)
        lobe[square] += 1.0 / (k + 1) ** (2 if order == 2 else 4)
    return lobe / np.linalg.norm(lobe.reshape(-1), ord=order)


def _mosaic(x, key, epsilon, order):
    height, width, channels = x.shape
    side, delta = height // 5, np.zeros_like(x)
    first = (height - 5 * side) // 2
    bits = iter(hashing.draw(key, 0, 25 * (1 + channels)))
    for row in range(5):
        for column in range(5):
            pyramid = np.array([[-1.0]]) if side == 1 else eta(side, order)
            pyramid = pyramid.T if hashing.sign(next(bits)) > 0 else pyramid
            top, left = first + row * side, first + column * side
            for channel in range(channels):
                tile = hashing.sign(next(bits)) * pyramid
                delta[top : top + side, left : left + side, channel] = tile
    return delta * epsilon / np.linalg.norm(delta.reshape(-1), ord=order)


def _pyramid(delta, key, query, share, epsilon, order):
    height, width, channels = delta.shape
    side = max(round(math.sqrt(share * height * width)), 3)
    side += side % 2 == 0
    *places, turned = hashing.draw(key, query, 5)
    signs = hashing.draw(key, query, 5 + channels)[5:]
    places = [hashing.below(place, height - side + 1) for place in places]
    window = slice(places[0], places[0] + side), slice(places[1], places[1] + side)
    donor = slice(places[2], places[2] + side), slice(places[3], places[3] + side)
    pyramid = eta(side, order).T if hashing.sign(turned) > 0 else eta(side, order)

    def power(part):
        return np.sum(np.abs(part) ** order)

    left_over = (epsilon**order - power(delta)) / channels
    new = delta.copy()
    for channel, bit in enumerate(signs):
        own = delta[..., channel]
        both = np.zeros_like(own)
        both[window], both[donor] = own[window], own[donor]
        norm = power(own[window]) ** (1 / order)
        direction = hashing.sign(bit) * pyramid + (0.999 * own[window] / norm if norm > 0 else 0.0)
        direction /= power(direction) ** (1 / order)
        direction *= max(left_over + power(both), 0.0) ** (1 / order)
        # As in the authors' code; the projection takes it back.
        direction *= channels if order == 1 else 1
        new[..., channel][donor] = 0.0
        new[..., channel][window] = direction
    return new
