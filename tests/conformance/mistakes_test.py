"""The mistakes of `docs/mistakes.md`, each made once: the error is the one written there."""

import pathlib
import re
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import tiers

ROOT = pathlib.Path(__file__).parents[2]
X, Y = (array[:12] for array in linear_fit.data())
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _model(loss=LOGITS, units=3, activation=None, layers=()):
    head = keras.layers.Dense(units, activation=activation)
    model = keras.Sequential([keras.Input((4,)), *layers, head])
    model.compile("sgd", loss)
    return model


def _fit(model, x=X, y=Y, callbacks=None, **arguments):
    callbacks = callbacks or [linear_fit.adv_train()]
    model.fit(x, y, **{"batch_size": 4, "verbose": 0, "callbacks": callbacks, **arguments})


def _with(**arguments):
    return [kr.AdvTrain(**{"threat_model": kr.Linf(0.1), "warmup": 0, **arguments})]


def _data(*parts, batch=4):
    data = tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])
    return data.batch(batch) if batch else data


def _not_compiled():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    _fit(model)


def _without_loss():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd")
    _fit(model)


def _frozen():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.trainable = False
    model.compile("sgd", LOGITS)
    _fit(model)


def _own_step():
    class Own(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    model = Own([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", LOGITS)
    _fit(model)


def _two_outputs(y):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [keras.layers.Dense(3)(inputs) for _ in range(2)])
    model.compile("sgd", [LOGITS, LOGITS])
    _fit(model, X, y, _with(attack=kr.attacks.PGD(num_steps=1)))


def _sequence(y):
    heads = [keras.layers.Dense(6), keras.layers.Reshape((2, 3))]
    model = keras.Sequential([keras.Input((4,)), *heads])
    model.compile("sgd", LOGITS)
    _fit(model, X, y, _with(attack=kr.attacks.PGD(num_steps=1)))


def _two_inputs(x, threat_model):
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    outputs = keras.layers.Dense(3)(keras.layers.Add()(list(inputs.values())))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", LOGITS)
    _fit(model, x, Y, _with(threat_model=threat_model, attack="fgsm"))


class _Rounds(keras.layers.Layer):
    def call(self, x):
        return keras.ops.cast(keras.ops.cast(10.0 * x, "int32"), "float32")


def _nan(array):
    return np.where(np.arange(len(array)) == 5, np.nan, array.T).T.astype("float32")


def _evaluate(model=None, x=X, y=Y, **arguments):
    kr.evaluate(model or _model(), (x, y), kr.Linf(0.1), "fgsm", minimum_norm=None, **arguments)


MISTAKES = {
    "the model was not compiled": _not_compiled,
    "compiled without a loss": _without_loss,
    "compiled without any trainable weight": _frozen,
    "a `train_step` of one's own": _own_step,
    "a softmax under `from_logits=True`": lambda: _fit(_model(activation="softmax")),
    "logits under `from_logits=False`": lambda: _fit(_model("sparse_categorical_crossentropy")),
    "one output under a loss of several classes": lambda: _fit(_model(units=1)),
    "three outputs under a binary loss": lambda: _fit(
        _model("hinge"), callbacks=_with(attack=kr.attacks.PGD(num_steps=1, loss="compiled"))
    ),
    "one-hot labels under a sparse loss": lambda: _fit(_model(), y=np.eye(3)[Y]),
    "class indices under `CategoricalCrossentropy`": lambda: _fit(
        _model(keras.losses.CategoricalCrossentropy(from_logits=True))
    ),
    "labels from 1": lambda: _fit(_model(), y=Y + 1),
    "labels of -1": lambda: _fit(_model(), y=Y - 1),
    "labels that are no whole numbers": lambda: _fit(_model(), y=Y + 0.5),
    "NaN among the labels": lambda: _fit(_model("mse", 1), y=_nan(Y)),
    "two arrays of labels for one output": lambda: _fit(
        _model(), _data(X, (Y, Y)), None, batch_size=None
    ),
    "a label out of range for one of two outputs": lambda: _two_outputs([Y, Y + 3]),
    "a label out of range in a sequence": lambda: _sequence(np.stack([Y, Y + 1], axis=1)),
    "no labels": lambda: _fit(_model(), y=None),
    "text as labels": lambda: _fit(_model(), y=Y.astype(str)),
    "fewer labels than examples": lambda: _fit(_model(), y=Y[:5]),
    "NaN among the sample weights": lambda: _fit(_model(), sample_weight=_nan(np.ones(12))),
    "two sample weights for each example": lambda: _fit(_model(), sample_weight=np.ones((12, 2))),
    "bytes (0 to 255) under bounds (0, 1)": lambda: _fit(_model(), (255 * X).astype("uint8")),
    "NaN among the inputs": lambda: _fit(_model(), _nan(X)),
    "inputs of another width": lambda: _fit(_model(), X[:, :3]),
    "a data set without `batch`": lambda: _fit(
        _model(), _data(X, Y, batch=None), None, batch_size=None
    ),
    "no example at all": lambda: _fit(_model(), X[:0], Y[:0]),
    "a dict for a model of one tensor": lambda: _fit(_model(), {"a": X, "b": X}),
    "one of two inputs is missing": lambda: _two_inputs({"a": X}, {"a": "linf"}),
    "several inputs and one threat model": lambda: _two_inputs({"a": X, "b": X}, "linf"),
    "a threat model for an input that is not there": lambda: _two_inputs(
        {"a": X, "b": X}, {"c": "linf"}
    ),
    "a generator without `steps_per_epoch`": lambda: _fit(
        _model(), ((X, Y) for _ in range(2)), None, _with(warmup="20%"), batch_size=None
    ),
    "regression with an objective on logits": lambda: _fit(
        _model("mse", 1), y=X[:, 0], callbacks=_with(objective="trades")
    ),
    "a layer without a gradient": lambda: _fit(_model(layers=[_Rounds()])),
    "an `epsilon` that cannot be read": lambda: kr.Linf("8/0"),
    "an `epsilon` as large as the box": lambda: _fit(
        _model(), callbacks=_with(threat_model=kr.Linf(8))
    ),
    "bounds in the wrong order": lambda: kr.Linf(0.1, bounds=(1, 0)),
    "a number as the threat model": lambda: kr.AdvTrain(0.3),
    "an attack that does not exist": lambda: kr.AdvTrain(attack="pgdd"),
    "a seed that is no int": lambda: kr.AdvTrain(seed="a"),
    "two `AdvTrain` in one `fit`": lambda: _fit(_model(), callbacks=[*_with(), *_with()]),
    "held-out labels that are no class": lambda: _fit(
        _model(), callbacks=[kr.RobustValidation((X, Y + 1), kr.Linf(0.1), attack="fgsm")]
    ),
    "evaluation: inputs of another width": lambda: _evaluate(x=X[:, :2]),
    "evaluation: labels that are no whole numbers": lambda: _evaluate(y=Y + 0.5),
    "evaluation: a function that returns nothing": lambda: _evaluate(lambda x: None),
    "evaluation: half a batch as `num_examples`": lambda: _evaluate(num_examples=2.5),
}


# On JAX Keras builds model, loss and metrics on the first batch, before any callback.
OF_KERAS_ON_JAX = {
    "three outputs under a binary loss",
    "one-hot labels under a sparse loss",
    "class indices under `CategoricalCrossentropy`",
    "two arrays of labels for one output",
    "no labels",
    "two sample weights for each example",
    "inputs of another width",
    "a data set without `batch`",
    "no example at all",
    "a dict for a model of one tensor",
    "one of two inputs is missing",
}


def _table():
    """The rows of the document, a dict."""
    text = (ROOT / "docs" / "mistakes.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {mistake: said for mistake, said in rows if mistake != "mistake"}


def test_the_document_has_them_all():
    assert list(_table()) == list(MISTAKES)


@pytest.mark.skipif(not backends.IS_JAX, reason="TensorFlow has Keras build nothing")
@pytest.mark.parametrize("mistake", sorted(OF_KERAS_ON_JAX))
def test_on_jax_keras_says_some_of_it_before_any_callback(mistake):
    with pytest.raises((TypeError, ValueError, StopIteration)) as caught:
        MISTAKES[mistake]()
    files = [frame.filename for frame in traceback.extract_tb(caught.tb)]
    assert not any("/keras_robust/" in file for file in files)


@tiers.parametrize("mistake", MISTAKES)
@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:In loss categorical")
@pytest.mark.filterwarnings("ignore:Every input gradient")
def test_the_error_is_the_one_that_is_written(mistake):
    if backends.IS_JAX and mistake in OF_KERAS_ON_JAX:
        pytest.skip("for TensorFlow only: on JAX Keras is first")
    said = _table()[mistake]
    is_keras = said.endswith("(Keras)")
    with pytest.raises((TypeError, ValueError)) as caught:
        MISTAKES[mistake]()
    text = re.sub(r"\s+", " ", str(caught.value))
    assert any(part in text for part in said.removesuffix(" (Keras)").split(", or: ")), text
    ours = [f for f in traceback.extract_tb(caught.tb) if "/keras_robust/" in f.filename]
    assert ("Received: " in text) != is_keras
    assert bool(ours) != is_keras
