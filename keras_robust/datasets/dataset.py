"""Data set held in memory."""

import collections

_FIELDS = ("name", "train", "validation", "test", "num_classes", "input_shape", "label_names")


class Dataset(collections.namedtuple("Dataset", _FIELDS)):
    """A labeled image data set, held in memory as three pairs of NumPy arrays.

    Each pair is `(x, y)`, ready for `keras.Model.fit`: images, float32 in `[0, 1]`, shape
    `(num_examples, *input_shape)`, and class indices, int64 in `[0, num_classes)`, shape
    `(num_examples,)`.

    Args:
        name: string, the name by which it was loaded.
        train: pair of arrays, the training examples.
        validation: pair of arrays, held out from the training examples, for early stopping and the
            choice of hyperparameters.
        test: pair of arrays, for the final report only.
        num_classes: int, the number of classes.
        input_shape: tuple `(height, width, channels)` of one image.
        label_names: tuple of `num_classes` strings, in the order of the class indices.

    Example:

    >>> from keras_robust import datasets
    >>> digits = datasets.load("digits")
    >>> digits.input_shape, digits.num_classes
    ((8, 8, 1), 10)
    """

    __slots__ = ()
