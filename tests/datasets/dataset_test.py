import numpy as np
import pytest

from keras_robust import datasets


def test_fields_are_named_and_cannot_be_set():
    pair = (np.zeros((1, 2, 2, 1), "float32"), np.zeros(1, "int64"))
    dataset = datasets.Dataset("x", pair, pair, pair, 2, (2, 2, 1), ("a", "b"))
    assert dataset.test[0].shape[1:] == dataset.input_shape
    assert len(dataset.label_names) == dataset.num_classes
    with pytest.raises(AttributeError):
        dataset.name = "y"
