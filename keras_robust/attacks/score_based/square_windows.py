"""Where the windows of the Square attack are, and how large: one size per query."""

import math

import numpy as np
from keras import ops

from keras_robust.attacks import counter_rng

# Queries after which the share of the image that a window covers is halved, for 10 000 queries.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULE = 10000


def image_shape(shape):
    """Returns the `(height, width, channels)` as which examples of some shape are treated.

    A vector is one row of features; of more than three axes, all but the last two are stacked.
    """
    if None in shape:
        raise ValueError(
            "The Square attack needs inputs of a known shape, vectors or images. "
            f"Received: inputs of shape {(None, *shape)}"
        )
    if len(shape) <= 1:
        return (1, *(shape or (1,)), 1)
    if len(shape) == 2:
        return (*shape, 1)
    return (math.prod(shape[:-2]), *shape[-2:])


def stages(num_queries, rescale_schedule):
    """Returns how often the share has been halved before each query, an int array."""
    queries = np.arange(num_queries)
    if rescale_schedule:
        queries = queries * _SCHEDULE // num_queries
    return np.searchsorted(_HALVINGS, queries, side="left")


class Windows:
    """The windows of a search, of a size that is known when it is traced.

    The area is the share `p` of `height * width`, as near to a square as the image allows.

    Args:
        height, width: int, of the image.
        p_init: float, the share at first.
        smallest: int, the shortest side of a window where the image has room for it.
        odd: bool, whether sides must be odd where the image has room for it.
    """

    def __init__(self, height, width, p_init, *, smallest=1, odd=False):
        self.height, self.width = height, width
        shares = p_init / 2.0 ** np.arange(len(_HALVINGS) + 1)
        self.sizes = [_size(height, width, share, smallest, odd) for share in shares]

    def size(self, stage):
        """Returns height and width at a stage, an int32 tensor, as float32 tensors."""
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
        """Returns where the windows are, bool `(batch_size, height, width, 1)`."""
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
    # What does not fit into the one side goes into the other.
    if rows < side:
        columns = _side(area / rows, smallest, odd, width)
    elif columns < side:
        rows = _side(area / columns, smallest, odd, height)
    return rows, columns


def _side(length, smallest, odd, extent):
    side = max(round(length), smallest)
    return min(side + (odd and side % 2 == 0), extent)
