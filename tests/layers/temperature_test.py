import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from keras_robust import layers
from keras_robust import losses
from tests.support import gradients
from tests.support import refusals
from tests.support import tiers

RNG = np.random.default_rng(0)
LOGITS = 3.0 * RNG.normal(size=(400, 4))
# Labels drawn at temperature 2.
LABELS = np.array([RNG.choice(4, p=special.softmax(z / 2.0)) for z in LOGITS])


def cross_entropy(temperature, labels=LABELS):
    rows = np.eye(4)[labels] if labels.ndim == 1 else labels
    return -np.mean(np.sum(rows * special.log_softmax(LOGITS / temperature, axis=-1), axis=-1))


def test_divides():
    np.testing.assert_allclose(layers.Temperature(4.0)(np.float32([[2.0, 6.0]])), [[0.5, 1.5]])


@tiers.parametrize("labels", [LABELS, np.eye(4)[LABELS], 0.8 * np.eye(4)[LABELS] + 0.05])
def test_calibrates_to_the_smallest_cross_entropy(labels):
    layer = layers.Temperature()
    found = layer.calibrate(LOGITS, labels)
    assert found == layer.temperature
    grid = np.exp(np.linspace(np.log(0.1), np.log(20.0), 2000))
    best = grid[np.argmin([cross_entropy(t, labels) for t in grid])]
    assert found == pytest.approx(best, rel=0.005)
    np.testing.assert_allclose(layer(np.float32(LOGITS)), LOGITS / found, rtol=1e-5)


def test_calibration_by_hand():
    """Logits (4, 0), right three times of four: `softmax = 3/4` at `4 / T = log 3`."""
    layer = layers.Temperature(7.0)
    found = layer.calibrate([[4.0, 0.0]] * 4, np.array([0, 0, 0, 1]))
    assert found == pytest.approx(4.0 / np.log(3.0), rel=1e-5)


def test_predictions_that_are_all_right_or_all_wrong_end_near_the_ends():
    assert layers.Temperature().calibrate([[4.0, 0.0]], [0]) < 0.05
    assert layers.Temperature().calibrate([[4.0, 0.0]], [1]) == pytest.approx(1e3, rel=0.01)


def test_calibration_reaches_a_model_that_was_traced_and_its_file(tmp_path):
    layer = layers.Temperature()
    model = keras.Sequential([keras.Input((4,)), layer])
    x = np.float32(LOGITS[:3])
    model.predict(x, verbose=0)
    found = layer.calibrate(LOGITS, LABELS)
    np.testing.assert_allclose(model.predict(x, verbose=0), x / found, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    assert revived.layers[-1].temperature == found
    np.testing.assert_allclose(revived(x), x / found, rtol=1e-5)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(x), x / found, rtol=1e-5)


def test_training_does_not_move_it():
    layer = layers.Temperature(3.0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), layer])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(LOGITS, LABELS, epochs=1, verbose=0)
    assert layer.temperature == 3.0
    assert layer.trainable_variables == []


def test_half_precision_is_divided_in_float32():
    x = np.float32([[100.0, 3.1]])
    found = layers.Temperature(3.0, dtype="mixed_float16")(x)
    np.testing.assert_array_equal(found, keras.ops.cast(x / np.float32(3.0), "float16"))


def test_a_small_temperature_hides_the_gradient():
    x = keras.ops.convert_to_tensor([[3.0, 0.0]])

    def compute(x):
        logits = layers.Temperature(0.01)(x)
        return losses.cross_entropy(np.array([0]), logits)

    loss, slopes = gradients.of(compute, x)
    assert float(keras.ops.max(keras.ops.abs(slopes))) == 0.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, "2"])
def test_wrong_temperature(temperature):
    refusals.assert_argument_refused(
        layers.Temperature,
        "`temperature` must be a number above 0.*Received",
        temperature=temperature,
    )


@pytest.mark.parametrize("logits", [np.zeros((0, 4)), np.zeros(4), np.full((2, 4), np.nan)])
def test_wrong_logits(logits):
    message = f"Expected finite logits.*Received: logits of shape {re.escape(str(logits.shape))}"
    with refusals.assert_refused(message):
        layers.Temperature().calibrate(logits, np.zeros(len(logits), int))
