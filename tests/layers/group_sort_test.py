import keras
import numpy as np
import pytest

from keras_robust.layers import GroupSort
from tests.support import backends
from tests.support import refusals

X = np.random.default_rng(0).normal(size=(3, 4, 5, 12)).astype("float32")


@pytest.mark.parametrize("size", [2, 3, 4, 12])
def test_sorts_within_groups(size):
    expected = np.sort(X.reshape(3, 4, 5, -1, size), axis=-1).reshape(X.shape)
    np.testing.assert_array_equal(GroupSort(size)(X), expected)
    np.testing.assert_array_equal(GroupSort(size)(X[:, 0, 0]), expected[:, 0, 0])


@pytest.mark.parametrize("size", [2, 4])
def test_the_jacobian_is_a_permutation(size):
    x = keras.ops.convert_to_tensor(X[0, 0, :1])
    jacobian = np.asarray(backends.jacobian(GroupSort(size), x)).reshape(12, 12)
    assert set(np.unique(jacobian)) == {0.0, 1.0}
    np.testing.assert_array_equal(jacobian.sum(axis=0), 1.0)
    np.testing.assert_array_equal(jacobian.sum(axis=1), 1.0)


def test_in_a_model_and_a_file(tmp_path):
    model = keras.Sequential([keras.Input((4, 5, 12)), GroupSort(3)])
    assert model.output_shape == (None, 4, 5, 12)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(X), model(X))
    np.testing.assert_array_equal(backends.traced(model, True)(X), model(X))
    assert GroupSort(dtype="mixed_float16")(X).dtype == "float16"


def test_wrong_sizes():
    refusals.assert_argument_refused(
        GroupSort, "`group_size` must be a whole number from 2.*group_size=1", group_size=1
    )
    with refusals.assert_refused(r"multiple of group_size=5. Received: .*\(3, 4, 5, 12\)"):
        GroupSort(5)(X)
