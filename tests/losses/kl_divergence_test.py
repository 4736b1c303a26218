import keras
import numpy as np
import pytest
from scipy import special

import keras_robust as kr
from keras_robust import losses
from tests.support import gradients

RNG = np.random.default_rng(0)
CLEAN = RNG.normal(size=(5, 4)).astype("float32") * 2
MOVED = RNG.normal(size=(5, 4)).astype("float32") * 2


def probabilities(z):
    return special.softmax(z.astype("float64"), axis=-1)


def test_by_hand():
    # KL((1/2, 1/2) || (1/4, 3/4)) = ln 2 / 2 + ln (2/3) / 2 = ln (4/3) / 2; with the arguments
    # exchanged: ln (1/2) / 4 + 3/4 ln (3/2) = .75 ln 3 - ln 2.
    even, odd = np.array([[0.0, 0.0]], "float32"), np.array([[0.0, np.log(3.0)]], "float32")
    np.testing.assert_allclose(losses.kl_divergence(even, odd), [np.log(4 / 3) / 2], rtol=1e-6)
    np.testing.assert_allclose(
        losses.kl_divergence(odd, even), [0.75 * np.log(3) - np.log(2)], rtol=1e-6
    )


def test_is_the_relative_entropy_of_scipy():
    expected = special.rel_entr(probabilities(CLEAN), probabilities(MOVED)).sum(-1)
    np.testing.assert_allclose(losses.kl_divergence(CLEAN, MOVED), expected, rtol=1e-5)


def test_gradients_in_both_arguments():
    clean, moved = keras.ops.convert_to_tensor(CLEAN), keras.ops.convert_to_tensor(MOVED)

    def compute(clean, moved):
        return losses.kl_divergence(clean, moved)

    values, slopes = gradients.of(compute, [clean, moved])
    by_clean, by_moved = slopes
    p, q = probabilities(CLEAN), probabilities(MOVED)
    ratio = np.log(p / q)
    # d/dz' = q - p; d/dz = p (log(p / q) - KL).
    np.testing.assert_allclose(by_moved, q - p, rtol=0, atol=1e-6)
    divergence = (p * ratio).sum(-1, keepdims=True)
    np.testing.assert_allclose(by_clean, p * (ratio - divergence), rtol=0, atol=2e-6)


def test_is_zero_with_zero_gradient_where_both_agree():
    moved = keras.ops.convert_to_tensor(CLEAN)

    def compute(moved):
        return losses.kl_divergence(CLEAN, moved)

    values, slopes = gradients.of(compute, moved)
    np.testing.assert_array_equal(values, np.zeros(5))
    np.testing.assert_allclose(slopes, np.zeros((5, 4)), atol=1e-6)


def test_extreme_logits_are_not_clipped():
    # p = (1, 0), q = (0, 1) up to exp(-200): the divergence is 200.
    clean, moved = np.array([[100.0, -100.0]], "float32"), np.array([[-100.0, 100.0]], "float32")
    np.testing.assert_allclose(losses.kl_divergence(clean, moved), [200.0], rtol=1e-6)


def test_loss_class_is_the_weighted_mean():
    loss, each = kr.losses.LogitKLDivergence(), np.asarray(losses.kl_divergence(CLEAN, MOVED))
    assert float(loss(CLEAN, MOVED)) == pytest.approx(each.mean(), rel=1e-5)
    weight = np.array([2.0, 0.0, 1.0, 0.0, 0.5], "float32")
    assert float(loss(CLEAN, MOVED, weight)) == pytest.approx((weight * each).mean(), rel=1e-5)


def test_loss_class_reduction_and_config():
    loss = kr.losses.LogitKLDivergence(reduction="none")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is kr.losses.LogitKLDivergence
    assert revived.get_config() == loss.get_config()
    assert revived(CLEAN, MOVED).shape == (5,)
