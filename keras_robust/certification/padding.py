"""Batches of a few sizes only."""

import numpy as np


def padded_rows(count, least=1, most=None):
    """Returns the indices of so many rows, with the last one repeated up to a power of two.

    A function is compiled for each size of a batch, and there are few powers of two.

    Args:
        count: int of at least 1, the number of rows.
        least: int, the smallest size. Defaults to `1`.
        most: int of at least `count`, a size not to exceed, or `None`.
    """
    size = max(least, 2 ** (count - 1).bit_length())
    return np.minimum(np.arange(size if most is None else min(size, most)), count - 1)
