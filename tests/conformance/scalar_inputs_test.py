"""One number, or one string, for each example: the same as for inputs of shape `(n, 1)`."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import refusals
from tests.support import tiers

X = np.linspace(0.02, 0.98, 24).astype("float32")
Y = (X > 0.5).astype("int64")
TEXT, LABELS = np.array(["good film", "bad film"] * 8), np.array([1, 0] * 8)
WORDS = kr.threat_models.AtLayer("words", kr.L2(0.5, bounds=None))
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def number_model(shape):
    """Class 1 above 0.5, from inputs of shape `(n,)` or `(n, 1)`."""
    inputs = keras.Input(shape)
    dense = keras.layers.Dense(2)
    outputs = dense(keras.ops.expand_dims(inputs, -1) if shape == () else inputs)
    dense.set_weights([np.array([[-4.0, 4.0]]), np.array([2.0, -2.0])])
    model = keras.Model(inputs, outputs)
    model.compile("sgd", LOSS)
    return model


def text_model(shape):
    keras.utils.set_random_seed(0)
    vectors = keras.layers.TextVectorization(output_sequence_length=4)
    vectors.adapt(TEXT)
    inputs = keras.Input(shape, dtype="string")
    embedded = keras.layers.Embedding(8, 4, name="words")(vectors(inputs))
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(embedded))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", LOSS)
    return model


def pairs(make, x):
    """The model and its inputs, of shape `(n,)` and `(n, 1)`."""
    return (make(()), x), (make((1,)), x[:, None])


def _ball(cls):
    if cls in (kr.attacks.JSMA, kr.attacks.OnePixel):
        return kr.L0(1)
    return kr.L2(0.1) if cls is kr.attacks.Boundary else kr.Linf(0.1)


def _make(cls):
    known = inspect.signature(cls).parameters
    arguments = {name: 5 for name in ("num_steps", "num_queries") if name in known}
    if cls is kr.attacks.CarliniWagner:
        arguments["num_steps"] = 50  # Five would not reach the boundary.
    if cls is kr.attacks.TargetedAPGD:
        arguments.update(loss="margin", num_targets=1)
    return cls(**arguments)


OTHERS = [cls for cls in kr.attacks.ALL if cls not in (kr.attacks.PGD, kr.attacks.Transfer)]


@tiers.parametrize("cls", [kr.attacks.PGD, *OTHERS])
def test_attacks(cls):
    found = [_make(cls).run(*pair, Y, _ball(cls)) for pair in pairs(number_model, X)]
    assert found[0].x_adv.shape == X.shape
    np.testing.assert_allclose(found[0].x_adv, found[1].x_adv[:, 0], atol=1e-6)
    np.testing.assert_array_equal(found[0].success, found[1].success)
    assert found[0].success.any()


@tiers.parametrize("ball", [kr.Linf(0.1), kr.L2(0.1), kr.L1(0.1)])
def test_evaluate(ball, tmp_path):
    """Within 0.1 of the boundary at 0.5 lies what an attack breaks."""
    expected = 1.0 - np.mean(np.abs(X - 0.5) < 0.1)
    report = kr.evaluate(number_model(()), (X, Y), ball, "pgd", minimum_norm=None)
    assert report.clean_accuracy == 1.0
    assert report.robust_accuracy == pytest.approx(expected)
    report.save(tmp_path / "report.json")
    report.save_html(tmp_path / "report.html")


@pytest.mark.exhaustive
def test_the_suite_the_checks_and_the_certificates():
    (model, x), (other, same) = pairs(number_model, X)
    reports = [kr.evaluate(*pair, kr.Linf(0.1)) for pair in ((model, (x, Y)), (other, (same, Y)))]
    assert reports[0].robust_accuracy == reports[1].robust_accuracy
    assert reports[0].median_distance == pytest.approx(np.median(np.abs(X - 0.5)), rel=0.05)
    checks = [kr.sanity_check(*pair).checks for pair in ((model, (x, Y)), (other, (same, Y)))]
    assert [one.verdict for one in checks[0]] == [one.verdict for one in checks[1]]
    radii = kr.certify(model, (x, Y), "linear").radii
    np.testing.assert_allclose(radii, np.abs(X - 0.5), atol=1e-5)


def _history(model, data, ball):
    callbacks = [
        kr.AdvTrain(ball, attack=kr.attacks.PGD(num_steps=2), warmup=0),
        kr.RobustValidation(data, ball),
        kr.CollapseGuard(data, ball),
    ]
    return model.fit(*data, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks).history


@pytest.mark.exhaustive
def test_training_validation_and_guard():
    found, expected = (_history(model, (x, Y), kr.Linf(0.1)) for model, x in pairs(number_model, X))
    assert {"val_adv_accuracy", "val_probe_accuracy", "adv_accuracy"} <= set(found)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("callback", [kr.RobustValidation, kr.CollapseGuard])
def test_callbacks_hold_out_one_string_or_number_for_each_example(callback):
    for x, y, ball in ((TEXT, LABELS, WORDS), (X, Y, kr.Linf(0.1))):
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
        for data in ((x, y), batches):
            held_out = callback(data, ball)
            np.testing.assert_array_equal(held_out.x.astype(x.dtype), x)
            np.testing.assert_array_equal(held_out.y, y)


@pytest.mark.exhaustive
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no strings")
def test_strings():
    attack = kr.attacks.PGD(num_steps=3)
    found = [attack.run(*pair, LABELS, WORDS) for pair in pairs(text_model, TEXT)]
    np.testing.assert_array_equal(found[0].success, found[1].success)
    np.testing.assert_allclose(found[0].x_adv, found[1].x_adv, atol=1e-6)
    for callback in (kr.RobustValidation, kr.CollapseGuard):
        batches = tf.data.Dataset.from_tensor_slices((TEXT, LABELS)).batch(5)
        held_out = callback(batches, WORDS)
        held_out.set_model(text_model(()))
        accuracy, _ = held_out.measure()
        assert accuracy == pytest.approx(1.0 - found[0].success.mean(), abs=0.26)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            1,
            r"`x\[None\], \[y\]` for one. Received: labels of shape \(\) and inputs",
        ),
        ([1], r"Expected one label per example. Received: 4 examples, labels of shape \(1,\)"),
        ([1, 0, 1, 0], r"The model cannot run on these inputs: .*\(4,\)"),
    ],
)
def test_one_example_without_an_axis_for_the_batch_is_told(y, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with refusals.assert_refused(message):
        kr.evaluate(model, (np.full(4, 0.5, "float32"), np.array(y)), kr.Linf(0.1))
