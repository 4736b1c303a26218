import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import losses
from tests.support import gradients

CLEAN = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]], "float32")
MOVED = np.array([[1.0, 4.0, 1.0], [0.0, 0.0, 0.0]], "float32")
# The means of the squares 0, 4, 1 and 0, 0, 9.
DISTANCES = [5 / 3, 3.0]


def test_by_hand():
    np.testing.assert_allclose(losses.logit_distance(CLEAN, MOVED), DISTANCES, rtol=1e-6)


def test_gradients_go_to_both_arguments():
    clean, moved = keras.ops.convert_to_tensor(CLEAN), keras.ops.convert_to_tensor(MOVED)

    def compute(clean, moved):
        return losses.logit_distance(clean, moved)

    values, slopes = gradients.of(compute, [clean, moved])
    by_clean, by_moved = slopes
    np.testing.assert_allclose(by_moved, 2 * (MOVED - CLEAN) / 3, rtol=1e-6)
    np.testing.assert_allclose(by_clean, 2 * (CLEAN - MOVED) / 3, rtol=1e-6)


def test_extreme_logits_are_finite():
    found = losses.logit_distance(np.float32([[1e15, 0.0]]), np.float32([[-1e15, 0.0]]))
    np.testing.assert_allclose(found, [2e30], rtol=1e-6)


def test_loss_class_is_the_weighted_mean():
    loss = kr.losses.LogitDistance()
    assert float(loss(CLEAN, MOVED)) == pytest.approx(7 / 3)
    weight = np.array([3.0, 1.0], "float32")
    assert float(loss(CLEAN, MOVED, weight)) == pytest.approx(4.0)
    assert float(loss(CLEAN, MOVED, 2 * weight)) == pytest.approx(8.0)


def test_loss_class_reduction_and_config():
    loss = kr.losses.LogitDistance(reduction="none")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is kr.losses.LogitDistance
    assert revived.get_config() == loss.get_config()
    np.testing.assert_allclose(revived(CLEAN, MOVED), DISTANCES, rtol=1e-6)
