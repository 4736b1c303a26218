"""One column of outputs within [0, 1] is a logit or a probability: nobody guesses which."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import refusals
from tests.support import tiers

WEIGHTS = np.array([[4.0], [-3.0]], "float32")
X = np.random.default_rng(0).uniform(size=(40, 2)).astype("float32")
Z = X @ WEIGHTS
Y = (Z[:, 0] > 0).astype("int32")
BALL = kr.Linf(0.05)
REFUSED = (
    r"returns one column within \[0, 1\], which may be a logit or .* Return the logit, .*"
    r" two columns, .*"
    r"Received: outputs of shape \(40, 1\) from 0\.103 to 0\.965"
)


def _probability(x):
    return 1.0 / (1.0 + ops.exp(-ops.matmul(x, WEIGHTS)))


@keras.saving.register_keras_serializable("unknown_column_test")
class Logistic(keras.layers.Layer):
    def call(self, x):
        return 1.0 / (1.0 + ops.exp(-x))


def _network(*tail):
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((2,)), dense, *tail])
    dense.set_weights([WEIGHTS])
    return model


ENTRIES = {
    "evaluate": lambda model: kr.evaluate(model, (X, Y), BALL, "fgsm", minimum_norm=None),
    "sanity_check": lambda model: kr.sanity_check(model, (X, Y), BALL),
    "certify": lambda model: kr.certify(model, (X, Y), noise_stddev=0.1, num_samples=100),
    "attack": lambda model: kr.attacks.FGSM()(model, X, Y, BALL),
    "attack without labels": lambda model: kr.attacks.FGSM()(model, X, None, BALL),
    "run": lambda model: kr.attacks.Square(num_queries=2).run(model, X, Y, BALL, batch_size=16),
    "suite": lambda model: kr.attacks.AutoAttack().run(model, X, Y, BALL),
}
MODEL_ENTRIES = {
    "export": lambda model, path: kr.export_saved_model(model, path, data=(X, Y)),
    "smoothing": lambda model, _: kr.layers.RandomizedSmoothing(model, num_samples=2).decide(X),
    "detector": lambda model, _: kr.layers.FeatureSqueezingDetector(
        model, [kr.layers.BitDepth(4)]
    ).calibrate(X),
}
_SLOW = ("attack without labels", "run")


@pytest.mark.parametrize(
    "entry",
    [pytest.param(name, marks=pytest.mark.exhaustive if name in _SLOW else ()) for name in ENTRIES],
)
def test_is_refused_wherever_a_model_is_judged(entry):
    with pytest.raises(ValueError, match=REFUSED):
        ENTRIES[entry](_probability)


@pytest.mark.parametrize("entry", MODEL_ENTRIES)
def test_is_refused_wherever_a_keras_model_is_used(entry, tmp_path):
    with refusals.assert_refused(
        "returns one column within .* which may be a logit or", folder=tmp_path
    ):
        MODEL_ENTRIES[entry](_network(Logistic()), tmp_path / "1")


def _saved(tmp_path, call):
    model = _network(keras.layers.Activation("sigmoid"))
    path = str(tmp_path / "model")
    model.export(path, verbose=False)
    return call(path)


def _served(path):
    import tensorflow as tf

    return tf.saved_model.load(path).signatures["serving_default"]


KINDS = {
    "function": lambda _: _probability,
    "uncompiled model": lambda _: _network(Logistic()),
    "dict of one": lambda _: lambda x: {"score": _probability(x)},
    "NumPy": lambda _: lambda x: 1.0 / (1.0 + np.exp(-np.asarray(x) @ WEIGHTS)),
    "float16": lambda _: lambda x: ops.cast(_probability(x), "float16"),
    "signature": lambda folder: _saved(folder, _served),
    "TFSMLayer": lambda folder: _saved(
        folder, lambda path: keras.layers.TFSMLayer(path, call_endpoint="serve")
    ),
}


def _marks_of(kind):
    if kind not in ("signature", "TFSMLayer"):
        return ()
    return pytest.mark.exhaustive, backends.tensorflow_only("it is made of TensorFlow's functions")


@pytest.mark.parametrize("kind", [pytest.param(name, marks=_marks_of(name)) for name in KINDS])
def test_is_refused_whatever_gives_it(kind, tmp_path):
    with pytest.raises(ValueError, match=REFUSED):
        models.predict_clean_logits(KINDS[kind](tmp_path), X, batch_size=16)


@tiers.parametrize("loss,tail", [("binary_crossentropy", Logistic()), (None, None)])
def test_a_loss_and_a_keras_sigmoid_say_what_a_column_is(loss, tail):
    model = _network(tail or keras.layers.Activation("sigmoid"))
    if loss:
        model.compile("sgd", loss)
    found = models.predict_clean_logits(model, X)
    np.testing.assert_allclose(found[:, 1:], Z, rtol=1e-4, atol=1e-5)
    report = kr.evaluate(model, (X, Y), BALL, "fgsm", minimum_norm=None)
    # The dual norm of the weights is 7.
    margins = np.where(Y == 1, Z[:, 0], -Z[:, 0])
    assert report.clean_accuracy == 1.0
    assert report.robust_accuracy == np.mean(margins > 7 * 0.05)


def test_logits_are_told_by_one_outside_and_two_columns_are_not_asked():
    for outside in (-0.1, 1.1):
        column = np.append(np.linspace(0.0, 1.0, 39), outside).astype("float32")[:, None]
        found = models.predict_clean_logits(lambda x: x, column, batch_size=16)
        np.testing.assert_array_equal(found[:, 1:], column)
    pair = models.predict_clean_logits(
        lambda x: ops.concatenate([1.0 - _probability(x), _probability(x)], axis=-1), X
    )
    np.testing.assert_array_equal(pair.argmax(-1), Y)


def test_points_near_the_boundary_are_no_reason_to_refuse():
    # Every wrong point that an attack finds has a logit just within [0, 1].
    def model(x):
        return ops.matmul(x, WEIGHTS)

    near = X[(Z[:, 0] > 0.05) & (Z[:, 0] < 0.9)]
    assert len(near) > 2
    assert models.predict_logits(model, near).shape == (len(near), 2)
    rows = np.flatnonzero((Z[:, 0] > 0.0) & (Z[:, 0] < 1.0))
    assert len(kr.attacks.FGSM().run(model, X, Y, BALL, rows=rows).success) == len(rows)
