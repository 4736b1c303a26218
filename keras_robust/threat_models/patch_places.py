"""The places of a patch in images: masks, the best place, and whether changes fit one patch."""

from keras import ops


def place_mask(row, column, size, x):
    """Returns the mask of one patch per image, bool `(batch_size, rows, columns, 1)`.

    Args:
        row: int32 tensor `(batch_size, 1)`, the first row of each patch.
        column: int32 tensor `(batch_size, 1)`, the first column.
        size: pair of ints, rows and columns of a patch.
        x: tensor `(batch_size, rows, columns, channels)`.
    """
    axes = []
    for start, own, length in zip((row, column), size, ops.shape(x)[1:3], strict=True):
        index = ops.expand_dims(ops.arange(length, dtype="int32"), 0)
        axes.append(ops.logical_and(index >= start, index < start + own))
    rows, columns = axes
    return ops.logical_and(rows[:, :, None, None], columns[:, None, :, None])


def best_place(gains, size):
    """Returns the mask of the patch with the largest sum of gains per image, the first of several.

    Args:
        gains: float tensor `(batch_size, rows, columns, channels)`.
        size: pair of ints, rows and columns of a patch.
    """
    total = ops.sum(gains, axis=-1, keepdims=True)
    # Means have their maximum where sums have it.
    means = ops.average_pool(total, size, strides=1, padding="valid")[..., 0]
    width = ops.shape(means)[2]
    best = ops.cast(ops.argmax(ops.reshape(means, (ops.shape(means)[0], -1)), axis=-1), "int32")
    best = ops.expand_dims(best, -1)
    return place_mask(best // width, best % width, size, gains)


def fits(changed, size):
    """Returns, per image, whether one patch covers all changed features, bool `(batch_size,)`.

    Args:
        changed: bool tensor `(batch_size, rows, columns, channels)`.
        size: pair of ints, rows and columns of a patch.
    """
    fitting = ops.ones(ops.shape(changed)[:1], dtype="bool")
    for others, own in zip(((2, 3), (1, 3)), size, strict=True):
        has_change = ops.any(changed, axis=others)
        length = ops.shape(has_change)[1]
        index = ops.expand_dims(ops.arange(length, dtype="int32"), 0)
        # Without a change the last one lies before the first one, which fits.
        last = ops.max(ops.where(has_change, index, -1), axis=-1)
        first = ops.min(ops.where(has_change, index, length), axis=-1)
        fitting = ops.logical_and(fitting, last - first < own)
    return fitting
