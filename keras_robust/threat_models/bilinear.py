"""Bilinear interpolation of images, with gradients with respect to the positions."""

from keras import ops


def sample(images, rows, columns):
    """Returns the values of images at positions between their pixels, zero outside of the image.

    `keras.ops.image.affine_transform` has no gradient with respect to the transformation on
    TensorFlow. Between two rows the value is their weighted mean, and the same for columns; beyond
    the last pixel it falls to zero over the width of a pixel.

    Args:
        images: float tensor `(batch_size, rows, columns, channels)`.
        rows: float tensor `(batch_size, height, width)`, the row of each position.
        columns: float tensor like `rows`, the column of each position.

    Returns:
        A float tensor `(batch_size, height, width, channels)`.
    """
    count, height, width, channels = ops.shape(images)
    pixels = ops.reshape(images, (-1, channels))
    first = ops.reshape(ops.arange(count, dtype="int32"), (-1, 1, 1)) * (height * width)
    top, left = ops.floor(rows), ops.floor(columns)
    total = 0.0
    for row in (top, top + 1.0):
        for column in (left, left + 1.0):
            inside_row, row_index = _indices(row, height)
            inside_column, column_index = _indices(column, width)
            # The weights keep the gradient; the indices have none.
            share = (1.0 - ops.abs(rows - row)) * (1.0 - ops.abs(columns - column))
            share = ops.where(ops.logical_and(inside_row, inside_column), share, 0.0)
            values = ops.take(pixels, first + row_index * width + column_index, axis=0)
            total = total + ops.expand_dims(share, -1) * values
    return total


def _indices(positions, length):
    """Returns which whole positions are inside, and all of them as int32 indices that are."""
    last = ops.cast(length - 1, "float32")
    inside = ops.logical_and(positions >= 0.0, positions <= last)
    return inside, ops.cast(ops.clip(positions, 0.0, last), "int32")
