import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust import layers
from tests.support import gradients
from tests.support import refusals

CLEAN = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]], "float32")
MOVED = np.array([[1.0, 4.0, 1.0], [0.0, 0.0, 0.0]], "float32")
# Squares 0, 4, 1 and 0, 0, 9; the mean of their means.
DISTANCE = 7 / 3


def pair_model(weight):
    inputs = [keras.Input((3,)), keras.Input((3,))]
    dense = keras.layers.Dense(3, use_bias=False, kernel_initializer="identity")
    outputs = layers.PairedLogits(weight)([dense(one) for one in inputs])
    return keras.Model(inputs, outputs[0])


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_adds_the_term_and_returns_both(weight):
    layer = layers.PairedLogits(weight)
    clean, moved = layer([CLEAN, MOVED])
    np.testing.assert_array_equal(clean, CLEAN)
    np.testing.assert_array_equal(moved, MOVED)
    assert [float(loss) for loss in layer.losses] == pytest.approx([weight * DISTANCE])


def test_fit_takes_a_step_down_the_term():
    model = pair_model(0.5)
    model.compile(keras.optimizers.SGD(0.1), lambda y_true, y_pred: 0.0 * y_pred[:, 0])
    kernel = np.asarray(model.trainable_variables[0])
    history = model.fit([CLEAN, MOVED], np.zeros(2), batch_size=2, verbose=0, shuffle=False)
    assert history.history["loss"] == pytest.approx([0.5 * DISTANCE])
    delta = (MOVED - CLEAN).astype("float64")
    # The mean of the squares of `delta K`, at the identity.
    expected = kernel - 0.1 * 0.5 * 2.0 * delta.T @ delta / delta.size
    np.testing.assert_allclose(model.trainable_variables[0], expected, atol=1e-6)


def test_gradients_go_to_both():
    clean, moved = keras.ops.convert_to_tensor(CLEAN), keras.ops.convert_to_tensor(MOVED)
    layer = layers.PairedLogits(1.0)

    def compute(clean, moved):
        layer([clean, moved])
        return layer.losses[0]

    loss, slopes = gradients.of(compute, [clean, moved])
    by_clean, by_moved = slopes
    np.testing.assert_allclose(by_moved, (MOVED - CLEAN) / 3, rtol=1e-6)
    np.testing.assert_allclose(by_clean, (CLEAN - MOVED) / 3, rtol=1e-6)


def test_half_precision_does_not_overflow():
    layer = layers.PairedLogits(1.0, dtype="mixed_float16")
    layer(
        [
            keras.ops.convert_to_tensor([[300.0]], "float16"),
            keras.ops.convert_to_tensor([[0.0]], "float16"),
        ]
    )
    assert float(layer.losses[0]) == 90000.0


def test_xla():
    model = pair_model(0.5)
    model.compile("sgd", "mse", jit_compile=True)
    history = model.fit([CLEAN, MOVED], CLEAN, batch_size=2, verbose=0)
    assert history.history["loss"] == pytest.approx([0.5 * DISTANCE])


def test_file_round_trip(tmp_path):
    model = pair_model(0.25)
    model.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    revived([CLEAN, MOVED])
    assert float(revived.losses[0]) == pytest.approx(0.25 * DISTANCE)


def test_export(tmp_path):
    pair_model(0.25).export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve([CLEAN[:1], MOVED[:1]]), CLEAN[:1])


@pytest.mark.parametrize("weight", [-1.0, np.nan, "1", True])
def test_wrong_weight(weight):
    refusals.assert_argument_refused(
        layers.PairedLogits, "`weight` must be a finite number.*Received: weight=", weight=weight
    )


@pytest.mark.parametrize("inputs", [CLEAN, [CLEAN], [CLEAN, MOVED, MOVED], [CLEAN, MOVED[0]]])
def test_inputs_that_are_not_a_pair(inputs):
    with pytest.raises(ValueError, match="Expected a list of two.*Received: inputs of shape"):
        layers.PairedLogits()(inputs)
