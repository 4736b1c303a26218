import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import losses
from tests.support import gradients

LOGITS = np.array([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0], [-1.0, -4.0, 0.5]], "float32")
LABELS = np.array([1, 0, 2])
# The first value is (e^2 - e^5) / (e^2 + e^5 + e^1).
MARGINS = [-0.889627, 0.889627, -0.629432]


def softmax(logits):
    p = np.exp(np.asarray(logits, "float64") - np.max(logits, axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def exact_slopes(y, logits):
    """The gradient in float64: `p_t (e_t - p) - p_y (e_y - p)` for the best wrong class `t`."""
    p, own = softmax(logits), np.eye(np.shape(logits)[1])[y]
    best = np.eye(np.shape(logits)[1])[np.argmax(np.where(own > 0, -1.0, p), axis=-1)]
    top, true = (np.sum(p * one, axis=-1, keepdims=True) for one in (best, own))
    # 1 - p_y, which rounds to 0 even in float64, is the sum of the others.
    others = np.sum(p * (1.0 - own), axis=-1, keepdims=True)
    slopes = top * (best - p) - true * (own - p)
    at_label = -top * true - true * others
    return np.where(own > 0, at_label, slopes)


def test_by_hand():
    np.testing.assert_allclose(losses.probability_margin(LABELS, LOGITS), MARGINS, rtol=1e-5)


@pytest.mark.parametrize("y", [LABELS[:, None], np.eye(3)[LABELS], 0.4 * np.eye(3)[LABELS] + 0.2])
def test_label_forms(y):
    np.testing.assert_allclose(losses.probability_margin(y, LOGITS), MARGINS, rtol=1e-5)


@pytest.mark.parametrize("num_classes", [2, 7])
def test_is_the_lead_in_probability(num_classes):
    rng = np.random.default_rng(0)
    logits, y = 3.0 * rng.normal(size=(100, num_classes)), rng.integers(0, num_classes, 100)
    p, rows = softmax(logits), np.arange(100)
    own = p[rows, y]
    p[rows, y] = -1.0
    found = losses.probability_margin(y, logits.astype("float32"))
    np.testing.assert_allclose(found, p.max(axis=-1) - own, rtol=1e-4, atol=1e-6)


# A lead of 60 saturates the textbook form in float32.
@pytest.mark.parametrize("scale", [1.0, 4.0, 20.0])
def test_the_gradient_does_not_saturate(scale):
    logits = keras.ops.convert_to_tensor(scale * LOGITS)

    def compute(logits):
        return losses.probability_margin(LABELS, logits)

    values, slopes = gradients.of(compute, logits)
    # Of the examples that are correct: a mistake is where the loss may be flat.
    correct = np.array([0, 2])
    slopes, expected = np.asarray(slopes)[correct], exact_slopes(LABELS, scale * LOGITS)[correct]
    largest = np.abs(expected).max(axis=-1, keepdims=True)
    assert np.all(largest > 0.0)
    np.testing.assert_allclose(slopes / largest, expected / largest, atol=1e-4)


def test_large_logits_stay_between_minus_1_and_1():
    found = losses.probability_margin(LABELS, 1e6 * LOGITS)
    np.testing.assert_allclose(found, [-1.0, 1.0, -1.0], rtol=1e-6)


@pytest.mark.parametrize("attack", [kr.attacks.PGD, kr.attacks.APGD])
def test_attacks_take_its_name(attack):
    weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    search = attack(num_steps=10, loss="probability_margin")
    # The logits are 1.5 and -1.5, and 1.2 and -1.2 in the corner of the ball.
    found = search.run(lambda x: x @ weights, x, y, kr.Linf(0.1))
    np.testing.assert_allclose(found.x_adv, [[0.4, 0.4]], atol=1e-6)
    np.testing.assert_allclose(found.loss, -np.tanh(1.2), rtol=1e-5)


def test_loss_class_is_the_weighted_mean():
    loss = kr.losses.ProbabilityMargin()
    assert float(loss(LABELS, LOGITS)) == pytest.approx(np.mean(MARGINS), rel=1e-5)
    weight = np.array([2.0, 0.0, 4.0], "float32")
    expected = np.dot(weight, MARGINS) / 3
    assert float(loss(LABELS, LOGITS, weight)) == pytest.approx(expected, rel=1e-5)


def test_loss_class_reduction_and_config():
    loss = kr.losses.ProbabilityMargin(reduction="none", name="gap")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is kr.losses.ProbabilityMargin
    assert revived.get_config() == loss.get_config()
    np.testing.assert_allclose(revived(LABELS, LOGITS), MARGINS, rtol=1e-5)
