"""The size and position of the windows of the Square attack."""

import math

import numpy as np
from keras import ops

from keras_robust.backend import counter_rng

# Queries after which the share of the image that a window covers is halved, for 10 000 queries.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULE = 10000


def image_shape(shape):
    """Returns the `(height, width, channels)` to which examples of a shape are reshaped.

    A vector becomes one row of features. If there are more than three axes, all but the last two
    are stacked.
    """
    if None in shape:
        raise ValueError(
            "The Square attack needs inputs of a fixed shape, vectors or images. Received: inputs "
            f"of shape {(None, *shape)}"
        )
    if len(shape) <= 1:
        return (1, *(shape or (1,)), 1)
    if len(shape) == 2:
        return (*shape, 1)
    return (math.prod(shape[:-2]), *shape[-2:])


def stages(num_queries, rescale_schedule):
    """Returns how often `p` has been halved before each query, an int array."""
    queries = np.arange(num_queries)
    if rescale_schedule:
        queries = queries * _SCHEDULE // num_queries
    return np.searchsorted(_HALVINGS, queries, side="left")


class Windows:
    """The windows of a search, with sizes that are known when it is traced.

    A window covers the share `p` of `height * width`, and is as close to a square as the image
    allows.

    Args:
        height, width: int, of the image.
        p_init: float, the initial share `p`.
        smallest: int, the minimal side of a window, if the image has room for it.
        odd: bool, whether sides must be odd, if the image has room for it.
    """

    def __init__(self, height, width, p_init, *, smallest=1, odd=False):
        self.height, self.width = height, width
        shares = p_init / 2.0 ** np.arange(len(_HALVINGS) + 1)
        self.sizes = [_size(height, width, share, smallest, odd) for share in shares]

    def size(self, stage):
        """Returns height and width of the windows at `stage`, an int32 tensor, as float32."""
        sizes = ops.take(ops.convert_to_tensor(self.sizes, dtype="float32"), stage, axis=0)
        return sizes[0], sizes[1]

    def place(self, bits, stage):
        """Returns random top and left edges, float32 `(batch_size,)` each.

        Args:
            bits: uint32 tensor `(batch_size, 2)`.
            stage: int32 tensor `()`.
        """
        height, width = self.size(stage)
        top = counter_rng.below(bits[:, 0], self.height - height + 1.0)
        return top, counter_rng.below(bits[:, 1], self.width - width + 1.0)

    def mask(self, edges, stage):
        """Returns a mask of the windows, bool `(batch_size, height, width, 1)`."""
        rows, columns = (
            _is_within(edge, size, extent)
            for edge, size, extent in zip(
                edges, self.size(stage), (self.height, self.width), strict=True
            )
        )
        return ops.logical_and(rows[:, :, None, None], columns[:, None, :, None])


def _is_within(edge, size, extent):
    offset = ops.arange(extent, dtype="float32") - ops.expand_dims(edge, -1)
    return ops.logical_and(offset >= 0.0, offset < size)


def _size(height, width, share, smallest, odd):
    area = share * height * width
    side = max(round(math.sqrt(area)), smallest)
    side += odd and side % 2 == 0
    rows, columns = min(side, height), min(side, width)
    # If one side does not fit, the other becomes longer, so that the area stays the same.
    if rows < side:
        columns = _side(area / rows, smallest, odd, width)
    elif columns < side:
        rows = _side(area / columns, smallest, odd, height)
    return rows, columns


def _side(length, smallest, odd, extent):
    side = max(round(length), smallest)
    return min(side + (odd and side % 2 == 0), extent)
