import keras
import numpy as np
import pytest

from keras_robust.layers.orthogonal import orthogonalize
from keras_robust.layers.orthogonal import spectral_bound
from tests.support import gradients

RNG = np.random.default_rng(0)
MATRICES = {
    "tall": RNG.normal(size=(20, 6)),
    "wide": 100.0 * RNG.normal(size=(5, 30)),
    "square": 1e-3 * RNG.normal(size=(12, 12)),
    "rank one": np.outer(RNG.normal(size=8), RNG.normal(size=5)),
    "orthogonal": np.linalg.qr(RNG.normal(size=(10, 10)))[0],
    "spread": np.diag([1.0, 0.3, 0.01, 1e-3]),
}
every_matrix = pytest.mark.parametrize("name", MATRICES)


def singular(matrix):
    return np.linalg.svd(np.asarray(matrix, "float64"), compute_uv=False)


@every_matrix
def test_the_bound_is_a_norm_of_the_singular_values(name):
    matrix = MATRICES[name].astype("float32")
    values = singular(matrix)
    expected = values[0] * np.sum((values / values[0]) ** 32) ** (1 / 32)
    found = float(spectral_bound(keras.ops.convert_to_tensor(matrix)))
    assert found == pytest.approx(expected, rel=1e-5)
    assert found >= values[0] * (1 - 1e-6)


@every_matrix
@pytest.mark.parametrize("num_steps", [1, 4, 15])
def test_no_singular_value_ends_above_one(name, num_steps):
    matrix = MATRICES[name].astype("float32")
    bound = float(spectral_bound(keras.ops.convert_to_tensor(matrix)))
    expected = singular(matrix) / bound
    for _ in range(num_steps):
        expected = 1.5 * expected - 0.5 * expected**3
    found = orthogonalize(keras.ops.convert_to_tensor(matrix), num_steps)
    assert found.shape == matrix.shape
    np.testing.assert_allclose(singular(found), np.sort(expected)[::-1], atol=2e-5)
    assert singular(found)[0] <= 1.0 + 1e-5


@pytest.mark.parametrize("name", ["tall", "wide", "orthogonal"])
def test_the_directions_stay(name):
    """The polar factor: the nearest orthonormal matrix."""
    u, _, v = np.linalg.svd(MATRICES[name], full_matrices=False)
    found = orthogonalize(keras.ops.convert_to_tensor(MATRICES[name].astype("float32")), 30)
    np.testing.assert_allclose(found, u @ v, atol=1e-4)


def test_zero_has_a_value_and_a_gradient():
    def compute(matrix):
        return orthogonalize(matrix, 5)

    found, slopes = gradients.of(compute, np.zeros((4, 3), "float32"))
    np.testing.assert_array_equal(found, np.zeros((4, 3)))
    assert np.all(np.isfinite(slopes))
