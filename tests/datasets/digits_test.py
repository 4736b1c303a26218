import numpy as np
import pytest
from sklearn import datasets as sklearn_datasets

from keras_robust.datasets import digits


def _sorted_rows(x, y):
    """Returns the examples as sorted rows of integers, with the label last."""
    pixels = np.reshape(x, (len(x), -1))
    rows = np.concatenate([pixels, np.reshape(y, (-1, 1))], axis=1).astype("int64")
    return rows[np.lexsort(rows.T)]


@pytest.fixture(scope="module")
def dataset():
    return digits.load()


def test_description(dataset):
    assert dataset.name == "digits"
    assert dataset.num_classes == 10
    assert dataset.input_shape == (8, 8, 1)
    assert dataset.label_names == tuple("0123456789")


@pytest.mark.parametrize("part,size", [("train", 1297), ("validation", 200), ("test", 300)])
def test_shapes_and_types(dataset, part, size):
    x, y = getattr(dataset, part)
    assert x.shape == (size, 8, 8, 1)
    assert x.dtype == "float32"
    assert y.shape == (size,)
    assert y.dtype == "int64"


def test_parts_together_are_the_source(dataset):
    source = sklearn_datasets.load_digits()
    x, y = (np.concatenate(arrays) for arrays in zip(*dataset[1:4], strict=True))
    np.testing.assert_array_equal(
        _sorted_rows(x * 16, y), _sorted_rows(source.images, source.target)
    )


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_every_class_has_the_same_share_in_each_part(dataset, part):
    _, y = getattr(dataset, part)
    shares = np.bincount(sklearn_datasets.load_digits().target) / 1797
    np.testing.assert_allclose(np.bincount(y), shares * len(y), atol=1)


def test_shuffled_the_same_way_every_time(dataset):
    again = digits.load()
    for part in ("train", "validation", "test"):
        for array, array_again in zip(getattr(dataset, part), getattr(again, part), strict=True):
            np.testing.assert_array_equal(array, array_again)
    # The source begins with 0, 1, ..., 9, 0, 1, ...
    assert dataset.train[1][:10].tolist() != list(range(10))
