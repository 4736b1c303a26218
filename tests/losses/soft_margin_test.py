import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import losses
from tests.support import gradients

LOGITS = np.array([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0], [-1.0, -4.0, 0.5]], "float32")
LABELS = np.array([1, 0, 2])
# The first value is log(e^2 + e^1) - 5.
MARGINS = [-2.686738, 3.018150, -1.451413]


def test_by_hand():
    np.testing.assert_allclose(losses.soft_margin(LABELS, LOGITS), MARGINS, rtol=1e-5)


@pytest.mark.parametrize("y", [LABELS[:, None], np.eye(3)[LABELS], 0.4 * np.eye(3)[LABELS] + 0.2])
def test_label_forms(y):
    np.testing.assert_allclose(losses.soft_margin(y, LOGITS), MARGINS, rtol=1e-5)


def test_is_the_logarithm_of_the_odds_against_the_label():
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(100, 5)), rng.integers(0, 5, 100)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = p[np.arange(100), y]
    found = losses.soft_margin(y, logits.astype("float32"))
    np.testing.assert_allclose(found, np.log((1.0 - own) / own), rtol=1e-4, atol=1e-5)


def test_is_the_margin_for_two_classes_and_little_more_for_many():
    rng = np.random.default_rng(1)
    two, y = rng.normal(size=(50, 2)).astype("float32"), rng.integers(0, 2, 50)
    np.testing.assert_allclose(losses.soft_margin(y, two), losses.margin(y, two), atol=1e-6)
    many = rng.normal(size=(50, 10)).astype("float32")
    excess = losses.soft_margin(y, many) - losses.margin(y, many)
    assert np.all(excess > 0.0) and np.all(excess < np.log(9.0))


def test_gradient_is_shared_by_all_wrong_classes():
    logits = keras.ops.convert_to_tensor(LOGITS)

    def compute(logits):
        return losses.soft_margin(LABELS, logits)

    values, slopes = gradients.of(compute, logits)
    wrong = np.exp(LOGITS.astype("float64")) * (1.0 - np.eye(3)[LABELS])
    expected = wrong / wrong.sum(-1, keepdims=True) - np.eye(3)[LABELS]
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


def test_large_logits_do_not_overflow():
    found = losses.soft_margin(LABELS, 1e6 * LOGITS)
    np.testing.assert_allclose(found, [-3e6, 3e6, -1.5e6], rtol=1e-6)


def test_loss_class_is_the_weighted_mean():
    loss = kr.losses.SoftMargin()
    assert float(loss(LABELS, LOGITS)) == pytest.approx(np.mean(MARGINS), rel=1e-5)
    weight = np.array([2.0, 0.0, 4.0], "float32")
    expected = np.dot(weight, MARGINS) / 3
    assert float(loss(LABELS, LOGITS, weight)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(LABELS, LOGITS, 3 * weight)) == pytest.approx(3 * expected, rel=1e-5)


def test_loss_class_reduction_and_config():
    loss = kr.losses.SoftMargin(reduction="none", name="odds")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is kr.losses.SoftMargin
    assert revived.get_config() == loss.get_config()
    np.testing.assert_allclose(revived(LABELS, LOGITS), MARGINS, rtol=1e-5)
