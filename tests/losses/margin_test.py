import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import losses
from tests.support import gradients

LOGITS = np.array([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0], [-1.0, -4.0, 0.5]], "float32")
LABELS = np.array([1, 0, 2])
# 2 - 5, 5 - 2 and -1 - .5.
MARGINS = [-3.0, 3.0, -1.5]


def test_by_hand():
    np.testing.assert_allclose(losses.margin(LABELS, LOGITS), MARGINS, rtol=1e-6)


@pytest.mark.parametrize("y", [LABELS[:, None], np.eye(3)[LABELS], 0.4 * np.eye(3)[LABELS] + 0.2])
def test_label_forms(y):
    np.testing.assert_allclose(losses.margin(y, LOGITS), MARGINS, rtol=1e-6)


def test_is_positive_exactly_for_mistakes():
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(100, 5)).astype("float32"), rng.integers(0, 5, 100)
    np.testing.assert_array_equal(losses.margin(y, logits) > 0, logits.argmax(-1) != y)


def test_gradient_is_best_wrong_class_less_true_class():
    logits = keras.ops.convert_to_tensor(LOGITS)

    def compute(logits):
        return losses.margin(LABELS, logits)

    values, slopes = gradients.of(compute, logits)
    np.testing.assert_array_equal(slopes, [[1, -1, 0], [-1, 1, 0], [1, 0, -1]])


@pytest.mark.parametrize("scale", [1e-20, 1e6])
def test_extreme_logits(scale):
    found = losses.margin(LABELS, LOGITS * np.float32(scale))
    np.testing.assert_allclose(found, np.float32(scale) * np.array(MARGINS), rtol=1e-6)


def test_loss_class_is_the_weighted_mean():
    loss = kr.losses.Margin()
    assert float(loss(LABELS, LOGITS)) == pytest.approx(-0.5)
    # Keras divides by the number of examples: (-3 * 2 + 3 * 0 - 1.5 * 4) / 3.
    weight = np.array([2.0, 0.0, 4.0], "float32")
    assert float(loss(LABELS, LOGITS, weight)) == pytest.approx(-4.0)
    assert float(loss(LABELS, LOGITS, 3 * weight)) == pytest.approx(-12.0)


def test_loss_class_reduction_and_config():
    loss = kr.losses.Margin(reduction="none", name="gap")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is kr.losses.Margin
    assert revived.get_config() == loss.get_config()
    assert revived.name == "gap"
    np.testing.assert_allclose(revived(LABELS, LOGITS), MARGINS, rtol=1e-6)
