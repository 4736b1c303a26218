"""Handwritten digits of scikit-learn (Alpaydin and Kaynak, UCI repository, 1998)."""

import numpy as np
from sklearn import datasets
from sklearn import model_selection

from keras_robust.datasets.dataset import Dataset

# A value counts the black pixels in a block of 4 x 4 binary pixels.
_MAX_VALUE = 16.0
_NUM_VALIDATION = 200
_NUM_TEST = 300


def load():
    """Loads the 1797 digits, split into 1297 for training, 200 for validation and 300 for testing.

    The split is shuffled with a fixed seed and stratified: each class has the same share in each
    part, up to one example. The source does not state the writers of the digits, so digits of the
    same writer may be in more than one part.

    Returns:
        A `Dataset` of 8 x 8 images with one channel, each value the original integer (0 to 16)
        divided by 16, and the ten classes `"0"` to `"9"`.

    Example:

    >>> from keras_robust.datasets import digits
    >>> x, y = digits.load().test
    >>> float(x.max()), len(y)
    (1.0, 300)
    """
    source = datasets.load_digits()
    x = (source.images[..., np.newaxis] / _MAX_VALUE).astype("float32")
    y = source.target.astype("int64")
    train, test = _split(np.arange(len(y)), y, _NUM_TEST)
    train, validation = _split(train, y, _NUM_VALIDATION)
    return Dataset(
        name="digits",
        train=(x[train], y[train]),
        validation=(x[validation], y[validation]),
        test=(x[test], y[test]),
        num_classes=len(source.target_names),
        input_shape=x.shape[1:],
        label_names=tuple(str(label) for label in source.target_names),
    )


def _split(indices, y, num_held_out):
    """Returns the rest of `indices` and `num_held_out` of them, shuffled and stratified by `y`."""
    return model_selection.train_test_split(
        indices, test_size=num_held_out, random_state=0, stratify=y[indices]
    )
