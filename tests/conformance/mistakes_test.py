"""The mistakes of `docs/mistakes.md`, each made once: the error is the one written there."""

import pathlib
import re
import tempfile
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


def _model_of_two():
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    outputs = keras.layers.Dense(3)(keras.layers.Add()(list(inputs.values())))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", LOGITS)
    return model


def _two_inputs(x, threat_model):
    _fit(_model_of_two(), x, Y, _with(threat_model=threat_model, attack="fgsm"))


class _Rounds(keras.layers.Layer):
    def call(self, x):
        return keras.ops.cast(keras.ops.cast(10.0 * x, "int32"), "float32")


def _nan(array):
    return np.where(np.arange(len(array)) == 5, np.nan, array.T).T.astype("float32")


def _evaluate(model=None, x=X, y=Y, **arguments):
    kr.evaluate(model or _model(), (x, y), kr.Linf(0.1), "fgsm", minimum_norm=None, **arguments)


def _with_junk(use):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "state.npz"
        np.savez(path, meta=np.array("{}"))
        use(path)


def _token_ids():
    words = keras.layers.Embedding(8, 4, name="words")
    mean = keras.layers.GlobalAveragePooling1D()
    tokens = keras.Input((4,), dtype="int32")
    model = keras.Model(tokens, keras.layers.Dense(3)(mean(words(tokens))))
    model.compile("sgd", LOGITS)
    _fit(model, (8 * X).astype("int32"), callbacks=_with(threat_model=kr.Linf(1, bounds=(0, 8))))


class _Endpoint(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


def _own_loss():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), _Endpoint()])
    model.compile("sgd")
    _fit(model, y=None)


def _second_derivative():
    layers = [
        keras.layers.Reshape((2, 2, 1)),
        keras.layers.Resizing(3, 3, interpolation="bicubic"),
        keras.layers.Flatten(),
    ]
    _fit(_model(layers=layers), callbacks=_with(objective="jacobian"))


def _integer_model():
    model = keras.Sequential([keras.Input((4,), dtype="uint8"), keras.layers.Dense(3)])
    model.compile("sgd", LOGITS)
    return model


def _of_integers(x):
    _fit(_integer_model(), x, callbacks=_with(threat_model=kr.Linf(1, bounds=(0, 255))))


def _sparse():
    model = keras.Sequential([keras.Input((4,), sparse=True), keras.layers.Dense(3)])
    model.compile("sgd", LOGITS)
    _fit(model, _data(tf.sparse.from_dense(X), Y), None, batch_size=None)


def _of_four(x, y):
    layers = [keras.layers.Reshape((4, 1)), keras.layers.GRU(3, stateful=True)]
    model = keras.Sequential([keras.Input(batch_shape=(4, 4)), *layers])
    model.compile("sgd", LOGITS)
    _fit(model, x, y)


def _task():
    class Task(keras.Sequential):
        def predict(self, x, **arguments):
            return super().predict(self.preprocessor(x), **arguments)

    model = Task([keras.Input((4,)), keras.layers.Dense(3)])
    model.preprocessor = lambda x: 2 * x
    return model


def _forged():
    report = kr.evaluate(_model(), (X, Y), kr.Linf(0.1), "fgsm", minimum_norm=None).to_dict()
    kr.RobustnessReport.from_dict({**report, "robust_accuracy": 1.0, "clean_accuracy": 0.5})


MISTAKES = {
    "the model was not compiled": _not_compiled,
    "compiled without a loss": _without_loss,
    "compiled without any trainable weight": _frozen,
    "a custom `train_step`": _own_step,
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
    "labels that are not whole numbers": lambda: _fit(_model(), y=Y + 0.5),
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
    "an empty data set": lambda: _fit(_model(), X[:0], Y[:0]),
    "a dict for a model of one tensor": lambda: _fit(_model(), {"a": X, "b": X}),
    "one of two inputs is missing": lambda: _two_inputs({"a": X}, {"a": "linf"}),
    "several inputs and one threat model": lambda: _two_inputs({"a": X, "b": X}, "linf"),
    "a threat model for an input that the data lack": lambda: _two_inputs(
        {"a": X, "b": X}, {"c": "linf"}
    ),
    "a warm-up in percent and a generator without `steps_per_epoch`": lambda: _fit(
        _model(), ((X, Y) for _ in range(2)), None, _with(warmup="20%"), batch_size=None
    ),
    "regression with an objective on logits": lambda: _fit(
        _model("mse", 1), y=X[:, 0], callbacks=_with(objective="trades")
    ),
    "a layer without a gradient": lambda: _fit(_model(layers=[_Rounds()])),
    "an `epsilon` that is not a number": lambda: kr.Linf("8/0"),
    "an `epsilon` as large as the box": lambda: _fit(
        _model(), callbacks=_with(threat_model=kr.Linf(8))
    ),
    "low and high bounds swapped": lambda: kr.Linf(0.1, bounds=(1, 0)),
    "a number as the threat model": lambda: kr.AdvTrain(0.3),
    "an attack that does not exist": lambda: kr.AdvTrain(attack="pgdd"),
    "a seed that is not an int": lambda: kr.AdvTrain(seed="a"),
    "two `AdvTrain` in one `fit`": lambda: _fit(_model(), callbacks=[*_with(), *_with()]),
    "held-out labels that are not classes": lambda: _fit(
        _model(), callbacks=[kr.RobustValidation((X, Y + 1), kr.Linf(0.1), attack="fgsm")]
    ),
    "evaluation: inputs of another width": lambda: _evaluate(x=X[:, :2]),
    "evaluation: labels that are not whole numbers": lambda: _evaluate(y=Y + 0.5),
    "evaluation: a function that returns nothing": lambda: _evaluate(lambda x: None),
    "evaluation: half a batch as `num_examples`": lambda: _evaluate(num_examples=2.5),
    "a backup of a training that was changed": lambda: _with_junk(
        lambda path: _fit(_model(), callbacks=[kr.callbacks.AtomicBackup(path), *_with()])
    ),
    "token ids attacked instead of their embeddings": _token_ids,
    "no labels, for a model that adds its own loss": _own_loss,
    "class indices under `BinaryCrossentropy` with a softmax of two units": lambda: _fit(
        _model("binary_crossentropy", 2, "softmax"), y=Y % 2
    ),
    "an operation without a second derivative under `Jacobian`": _second_derivative,
    "a model with integer inputs": lambda: _of_integers(X.astype("uint8")),
    "a sparse input to attack": _sparse,
    "a batch that is too short for a model of one batch size": lambda: _of_four(X[:6], Y[:6]),
    "the class of a callback instead of an instance": lambda: _fit(
        _model(), callbacks=[kr.AdvTrain]
    ),
    "`eps` as an argument of an attack": lambda: kr.attacks.PGD(eps=0.1),
    "a misspelled suite of attacks": lambda: kr.evaluate(_model(), (X, Y), attacks="standart"),
    "evaluation: data without an end": lambda: kr.evaluate(
        _model(), _data(X, Y).repeat(), kr.Linf(0.1)
    ),
    "evaluation: inputs and labels as two arguments": lambda: kr.evaluate(_model(), X, Y),
    "evaluation: batches that are dicts": lambda: kr.evaluate(_model(), _data({"x": X, "y": Y})),
    "evaluation: a function of NumPy arrays as the model": lambda: _evaluate(
        lambda x: np.asarray(x)[:, :3]
    ),
    "evaluation: a column of probabilities without a loss": lambda: _evaluate(
        lambda x: 1.0 / (1.0 + keras.ops.exp(-x[:, :1])), y=Y % 2
    ),
    "evaluation: one probability of a `BlackBox`": lambda: _evaluate(
        kr.evaluation.BlackBox(lambda x: x[:, :1], num_classes=2), y=Y % 2
    ),
    "evaluation: a task of keras_hub with its preprocessor": lambda: _evaluate(_task()),
    "evaluation: regression, sequences or several labels": lambda: _evaluate(_model("mse", 1)),
    "evaluation: a checkpoint that was changed": lambda: _with_junk(
        lambda path: _evaluate(checkpoint=path)
    ),
    "evaluation: randomized smoothing as a certificate": lambda: _evaluate(
        certificates="smoothing"
    ),
    "evaluation: a certificate in another norm": lambda: _evaluate(certificates="lipschitz"),
    "a report whose figures do not fit together": _forged,
    "evaluation: a class instead of a model": lambda: _evaluate(keras.Sequential),
    "evaluation: batches of examples of different shapes": lambda: kr.evaluate(
        _model(), [(X, Y), (X[:, :2], Y)], kr.Linf(0.1)
    ),
    "evaluation: text as the input": lambda: kr.evaluate(
        _model(), (np.array(["a"] * len(Y)), Y), kr.Linf(0.1)
    ),
    'evaluation: `"black_box"` on several inputs': lambda: kr.evaluate(
        _model_of_two(), ({"a": X, "b": X}, Y), {"a": kr.Linf(0.1)}, attacks="black_box"
    ),
    'evaluation: `"black_box"` on a model with integer inputs': lambda: kr.evaluate(
        _integer_model(), (X, Y), kr.Linf(0.1), attacks="black_box"
    ),
    "a certificate of a model with several inputs": lambda: kr.certify(
        _model_of_two(), ({"a": X, "b": X}, Y), "interval"
    ),
    "a threat model instead of the examples": lambda: kr.attacks.PGD()(
        _model(), kr.Linf(0.1), X, Y
    ),
    "inputs outside of the box of a certificate": lambda: kr.certify(
        _model(), (X + 5.0, Y), kr.certification.Interval(bounds=(0, 1))
    ),
}


# On JAX Keras builds model, loss and metrics on the first batch, before any callback.
OF_KERAS_ON_JAX = {
    "three outputs under a binary loss",
    "one-hot labels under a sparse loss",
    "class indices under `CategoricalCrossentropy`",
    "class indices under `BinaryCrossentropy` with a softmax of two units",
    "two arrays of labels for one output",
    "no labels",
    "two sample weights for each example",
    "inputs of another width",
    "a data set without `batch`",
    "an empty data set",
    "a dict for a model of one tensor",
    "one of two inputs is missing",
}
# JAX has the second derivative of every operation.
NONE_ON_JAX = {"an operation without a second derivative under `Jacobian`"}


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
    if backends.IS_JAX and mistake in NONE_ON_JAX:
        MISTAKES[mistake]()
        return
    said = _table()[mistake]
    is_keras = said.endswith("(Keras)")
    with pytest.raises((TypeError, ValueError)) as caught:
        MISTAKES[mistake]()
    text = re.sub(r"\s+", " ", str(caught.value))
    assert any(part in text for part in said.removesuffix(" (Keras)").split(", or: ")), text
    ours = [f for f in traceback.extract_tb(caught.tb) if "/keras_robust/" in f.filename]
    assert text.count("Received: ") == (0 if is_keras else 1)
    assert bool(ours) != is_keras
