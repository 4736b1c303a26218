import numpy as np
import pytest

from keras_robust import losses

ROWS = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "float32")


@pytest.mark.parametrize(
    "y",
    [
        np.array([2, 0, 1]),
        np.array([2, 0, 1], "uint8"),
        np.array([[2], [0], [1]], "int64"),
        np.array([2.0, 0.0, 1.0], "float32"),
        np.array([[1.9999999], [0.0], [1.0]], "float32"),
        ROWS,
        ROWS.astype("int32"),
    ],
)
def test_every_hard_form_is_the_same_label(y):
    indices, rows = losses.to_indices(y, 3), losses.to_rows(y, 3)
    assert np.asarray(indices).tolist() == [2, 0, 1]
    assert indices.dtype == "int32"
    assert rows.dtype == "float32"
    np.testing.assert_array_equal(rows, ROWS)


def test_soft_rows_stay_soft_and_count_by_their_largest_entry():
    y = np.array([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]], "float32")
    np.testing.assert_array_equal(losses.to_rows(y, 3), y)
    assert np.asarray(losses.to_indices(y, 3)).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_binary_column_of_floats_is_the_probability_of_class_one(shape):
    y = np.array([1.0, 0.0, 0.75], "float32").reshape(shape)
    np.testing.assert_array_equal(losses.to_rows(y, 2), [[0, 1], [1, 0], [0.25, 0.75]])
    assert np.asarray(losses.to_indices(y, 2)).tolist() == [1, 0, 1]


def test_integers_of_two_classes_are_indices():
    np.testing.assert_array_equal(losses.to_rows(np.array([[1], [0]]), 2), [[0, 1], [1, 0]])
