"""Models with several inputs, from the structure of their inputs to training and evaluation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import linear_fit
from tests.support import refusals
from tests.support import several_inputs
from tests.support import tiers


def test_the_inputs_may_be_a_list():
    x = [np.full((2, 3), 0.5), np.array([[1], [2]]), np.full((2, 1, 2), 0.5)]
    parts = [None, None, kr.Linf(0.1)]
    found = kr.attacks.FGSM()(lambda inputs: inputs[2][:, 0], x, np.array([0, 0]), parts)
    assert isinstance(found, list)
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_array_equal(found[1], x[1])
    np.testing.assert_allclose(found[2][:, 0], [[0.4, 0.6], [0.4, 0.6]], rtol=1e-6)
    as_tuple = kr.attacks.FGSM()(lambda x: x[2][:, 0], tuple(x), np.array([0, 0]), parts)
    assert isinstance(as_tuple, tuple)
    np.testing.assert_array_equal(as_tuple[2], found[2])


def test_in_a_traced_function():
    x = {"a": np.full((2, 2), 0.5, "float32"), "b": np.array([[1], [2]])}
    y = np.array([0, 1])

    @backends.traced
    def perturb(x):
        return kr.attacks.FGSM()(lambda inputs: inputs["a"], x, y, {"a": kr.Linf(0.1)})

    found = perturb(x)
    np.testing.assert_allclose(found["a"], [[0.4, 0.6], [0.6, 0.4]], rtol=1e-6)
    np.testing.assert_array_equal(found["b"], x["b"])


@backends.with_and_without_xla
@tiers.parametrize("weighted", [False, True])
def test_training_takes_the_steps_of_the_float64_reference(weighted, jit_compile):
    x, y = linear_fit.data()
    epsilon = np.array([0.2, 0.05, 0.05, 0.05])
    parts = {"a": kr.Linf(0.2), "b": kr.Linf(0.05)}
    weights = np.linspace(0.0, 2.0, len(x)) if weighted else None
    model = several_inputs.parted_model(jit_compile=jit_compile)
    callback = kr.AdvTrain(parts, attack="fgsm", warmup=0)
    history = linear_fit.fit(
        model, callback, several_inputs.parted(x), y, epochs=2, sample_weight=weights
    )
    expected, logs = linear_fit.expected(x, y, weights, epochs=2, epsilon=lambda step: epsilon)
    np.testing.assert_allclose(linear_fit.weights(model), expected, rtol=0, atol=2e-5)
    for name in ("loss", "adv_accuracy"):
        assert history.history[name] == pytest.approx([log[name] for log in logs], abs=1e-5)


@pytest.mark.exhaustive
def test_the_ramp_and_radii_for_single_features():
    x, y = linear_fit.data()
    model = several_inputs.parted_model()
    parts = {"b": kr.Linf(np.array([[0.1], [0.2], [0.0]]))}
    callback = kr.AdvTrain(parts, attack="fgsm", warmup=3)
    linear_fit.fit(model, callback, several_inputs.parted(x), y)
    features = np.array([0.0, 0.1, 0.2, 0.0])
    expected, _ = linear_fit.expected(x, y, epsilon=lambda step: (step + 1) / 3 * features)
    np.testing.assert_allclose(linear_fit.weights(model), expected, rtol=0, atol=2e-5)


@pytest.mark.exhaustive
def test_validation_and_evaluation():
    x, _ = linear_fit.data()
    y = np.argmax(x @ linear_fit.initial_weights(), axis=-1)
    y[:2] = (y[:2] + 1) % 3
    model, parts = several_inputs.parted_model(), {"a": kr.Linf(0.2), "b": kr.L2(0.1)}
    single = linear_fit.make_model()
    single.layers[-1].set_weights([linear_fit.weights(model)])
    data = tf.data.Dataset.from_tensor_slices((several_inputs.parted(x), y)).batch(5)
    attack = kr.attacks.PGD(num_steps=2)
    report = kr.evaluate(model, data, parts, attack)
    logits = single.predict(x, verbose=0)
    np.testing.assert_allclose(report.logits, logits, rtol=0, atol=1e-5)
    assert report.clean_accuracy == 20 / 22
    assert report.robust_accuracy < report.clean_accuracy
    assert report.num_examples == len(x)
    np.testing.assert_array_equal(report.x_adv["number"], np.arange(len(x)))
    x_adv = np.concatenate([report.x_adv["a"], report.x_adv["b"][..., 0]], axis=1)
    np.testing.assert_allclose(single.predict(x_adv, verbose=0), report.adv_logits, atol=1e-5)
    assert kr.RobustnessReport.from_dict(report.to_dict()).threat_model["class_name"] == "PerInput"
    with pytest.raises(ValueError, match="Pictures need"):
        report.plot()

    validation = kr.RobustValidation(data, parts, attack=attack)
    model.optimizer.learning_rate = 0.0
    history = linear_fit.fit(model, validation, several_inputs.parted(x), y)
    assert history.history["val_adv_accuracy"] == [pytest.approx(report.robust_accuracy)]


@pytest.mark.parametrize("feeds_tensor", [False, True])
@pytest.mark.parametrize("build", [lambda x: x, lambda x: {"image": x}, lambda x: [x]])
def test_expose_input_takes_the_one_tensor_alone_or_in_a_structure(build, feeds_tensor):
    feed = (lambda x: x) if feeds_tensor else build
    tensor = keras.Input((2,), name="image")
    model = keras.Model(build(tensor), keras.layers.Dense(2)(tensor))
    x = np.array([[1, 2], [3, 4]])
    exposed, classifier = models.expose_input(model, feed(x))
    assert exposed.dtype == "float32"
    np.testing.assert_array_equal(exposed, x)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(classifier(exposed), x @ kernel + bias, rtol=1e-6)
    keras.tree.assert_same_structure(classifier.pack(exposed), build(x))


def test_predict_logits_of_a_model_with_several_inputs():
    x = {"a": np.arange(10.0).reshape(5, 2), "b": np.arange(5.0)}
    found = models.predict_logits(lambda x: x["a"] * x["b"][:, None], x, batch_size=2)
    np.testing.assert_array_equal(found, x["a"] * x["b"][:, None])


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("form", ["tensor", "dict", "list"])
def test_expose_gives_the_tensor_and_the_model_as_a_function_of_it(form, dtype):
    x = np.array([[0.0, 1.0], [3.0, 2.0]]).astype(dtype)
    structures = {"tensor": x, "dict": {"image": x}, "list": [x]}

    def model(inputs):
        (leaf,) = keras.tree.flatten(inputs)
        assert type(inputs) is type(
            keras.tree.map_structure(keras.ops.convert_to_tensor, structures[form])
        )
        return 2.0 * leaf

    threat_model = kr.Linf(0.1)
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, structures[form])
    exposed, classifier, ball = threat_model.bind(model, inputs)
    assert exposed.dtype == "float32"
    np.testing.assert_array_equal(exposed, x)
    np.testing.assert_array_equal(classifier.logits(exposed + 1.0), 2.0 * (x + 1.0))
    assert ball is threat_model


def test_expose_needs_to_be_told_which_of_several_inputs():
    inputs = {"image": np.zeros((2, 3)), "text": np.zeros((2, 3))}
    message = (
        r"The model has several inputs. Choose the inputs.*Received: inputs \['image', 'text'\]"
    )
    with pytest.raises(ValueError, match=message):
        kr.Linf(0.1).bind(None, inputs)
    with refusals.assert_refused("Received: inputs 2 tensors"):
        kr.Linf(0.1).bind(None, list(inputs.values()))
