import keras
import numpy as np
import pytest

from keras_robust import losses
from tests.support import gradients

LOGITS = np.random.default_rng(0).normal(size=(5, 4)).astype("float32") * 3
SOFT = np.random.default_rng(1).dirichlet(np.ones(4), size=5).astype("float32")


def log_softmax(z):
    z = z.astype("float64") - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_by_hand():
    # softmax(0, ln 3) = (1/4, 3/4).
    logits = np.array([[0.0, np.log(3.0)]] * 2, "float32")
    found = losses.cross_entropy(np.array([0, 1]), logits)
    np.testing.assert_allclose(found, [np.log(4.0), np.log(4.0 / 3.0)], rtol=1e-6)


@pytest.mark.parametrize("y", [np.array([3, 0, 1, 1, 2]), SOFT], ids=["indices", "soft"])
def test_is_the_numpy_cross_entropy(y):
    rows = np.eye(4)[y] if y.ndim == 1 else y
    expected = -(rows * log_softmax(LOGITS)).sum(-1)
    np.testing.assert_allclose(losses.cross_entropy(y, LOGITS), expected, rtol=1e-5)


def test_gradient_is_probabilities_less_labels():
    logits = keras.ops.convert_to_tensor(LOGITS)

    def compute(logits):
        return losses.cross_entropy(SOFT, logits)

    values, slopes = gradients.of(compute, logits)
    expected = np.exp(log_softmax(LOGITS)) - SOFT
    np.testing.assert_allclose(slopes, expected, rtol=0, atol=1e-6)


def test_extreme_logits_are_exact():
    logits = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], "float32")
    np.testing.assert_array_equal(losses.cross_entropy(np.array([0, 1]), logits), [0.0, 2e4])
