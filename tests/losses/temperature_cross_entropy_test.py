import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import keras_robust as kr
from keras_robust import losses
from tests.support import backends
from tests.support import gradients
from tests.support import refusals

RNG = np.random.default_rng(2)
LOGITS = 30.0 * RNG.normal(size=(5, 4)).astype("float32")
Y = np.array([3, 0, 1, 1, 2])
SOFT = special.softmax(RNG.normal(size=(5, 4)), -1).astype("float32")
LABELS = {"indices": Y, "column": Y[:, None], "one_hot": np.eye(4)[Y], "soft": SOFT}


def _expected(rows, temperature):
    return -np.sum(rows * special.log_softmax(LOGITS.astype("float64") / temperature, -1), -1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("labels", LABELS)
def test_labels_of_every_form(labels, temperature):
    rows = SOFT if labels == "soft" else np.eye(4)[Y]
    found = losses.temperature_cross_entropy(LABELS[labels], LOGITS, temperature)
    np.testing.assert_allclose(found, _expected(rows, temperature), rtol=1e-5, atol=1e-7)
    loss = kr.losses.TemperatureCrossEntropy(temperature)(LABELS[labels], LOGITS)
    assert float(loss) == pytest.approx(_expected(rows, temperature).mean(), rel=1e-5)


def test_at_temperature_one_it_is_the_loss_of_keras():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = kr.losses.TemperatureCrossEntropy(1.0)(Y, LOGITS)
    assert float(found) == pytest.approx(float(loss(Y, LOGITS)), rel=1e-6)


def test_gradient():
    logits = keras.ops.convert_to_tensor(LOGITS)

    def compute(logits):
        return losses.temperature_cross_entropy(Y, logits, 20.0)

    values, slopes = gradients.of(compute, logits)
    expected = (special.softmax(LOGITS.astype("float64") / 20.0, -1) - np.eye(4)[Y]) / 20.0
    np.testing.assert_allclose(slopes, expected, atol=1e-7)


def test_sample_weights_reduction_and_config():
    weight = np.array([2.0, 0.0, 1.0, 0.0, 0.5], "float32")
    loss = kr.losses.TemperatureCrossEntropy(20.0, reduction="none", name="soft")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is kr.losses.TemperatureCrossEntropy
    assert revived.get_config() == loss.get_config()
    expected = weight * _expected(np.eye(4)[Y], 20.0)
    np.testing.assert_allclose(revived(Y, LOGITS, weight), expected, rtol=1e-5)


@backends.tensorflow_only("elsewhere compiled code does not tell a softmax")
def test_the_outputs_of_a_softmax_are_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, activation="softmax")])
    model.compile("sgd", kr.losses.TemperatureCrossEntropy(20.0))
    with refusals.assert_refused(r"Remove the last activation. Received: outputs of shape", model):
        model.fit(np.zeros((5, 2)), Y, verbose=0)


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).uniform(size=(240, 4)).astype("float32")
    return x, np.argmax(x[:, :3], axis=-1)


def _model(loss):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.3), loss, metrics=["accuracy"])
    return model


@pytest.mark.exhaustive
@pytest.mark.parametrize("form", ["indices", "one_hot"])
def test_a_model_is_trained_attacked_evaluated_and_exported_with_it(data, form, tmp_path):
    x, y = data
    labels = y if form == "indices" else np.eye(3, dtype="float32")[y]
    model = _model(kr.losses.TemperatureCrossEntropy(20.0))
    history = model.fit(x, labels, epochs=8, verbose=0)
    assert history.history["accuracy"][-1] > 0.8
    history = model.fit(x, labels, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1), warmup=0)])
    assert 0.1 < history.history["adv_accuracy"][-1] < history.history["accuracy"][-1]
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.loss.temperature == 20.0
    report = kr.evaluate(loaded, (x, labels), kr.Linf(0.1), attacks="pgd")
    np.testing.assert_allclose(report.logits, model.predict(x, verbose=0), rtol=1e-5, atol=1e-5)
    assert report.robust_accuracy < report.clean_accuracy
    archive = tf.saved_model.load(
        str(kr.export_saved_model(loaded, tmp_path / "1", guard=kr.layers.InputGuard()))
    )
    (name,) = archive.signatures["serving_default"].structured_input_signature[1]
    served = archive.signatures["serving_default"](**{name: keras.ops.convert_to_tensor(x)})
    # The temperature is 1 here, whatever the training temperature was.
    expected = special.softmax(report.logits.astype("float64"), -1)
    np.testing.assert_allclose(served["probabilities"], expected, atol=1e-5)


@pytest.mark.exhaustive
def test_logits_grow_with_the_temperature(data):
    gaps = {}
    for temperature in (1.0, 20.0):
        model = _model(kr.losses.TemperatureCrossEntropy(temperature))
        model.fit(*data, epochs=8, verbose=0)
        gaps[temperature] = np.ptp(model.predict(data[0], verbose=0), axis=-1).mean()
    assert gaps[20.0] > 2.0 * gaps[1.0]
