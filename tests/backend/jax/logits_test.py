import threading

import jax
import keras
import numpy as np

from keras_robust.backend.jax.logits import record_logits
from keras_robust.backend.keras_internals import keras_logits

X = np.array([[0.5, -1.0]], "float32")


def _behind(model, x):
    seen = []

    def run(x):
        with record_logits(model):
            outputs = model(x)
        logits = keras_logits(outputs)
        seen.append(logits is not None)
        return outputs if logits is None else logits

    return np.asarray(jax.jit(run)(x)), seen[-1]


def test_finds_logits_behind_layers_in_traced_code():
    head = keras.layers.Dense(2, activation="softmax")
    for layers in ([head], [keras.layers.Dense(2), keras.layers.Softmax()]):
        model = keras.Sequential([keras.Input((2,)), *layers])
        kernel, bias = model.get_weights()
        found, is_known = _behind(model, X)
        assert is_known
        np.testing.assert_allclose(found, X @ kernel + bias, rtol=1e-5)


def test_layers_are_left_as_they_were_and_others_have_none():
    head, soft = keras.layers.Dense(2, activation="sigmoid"), keras.layers.Softmax()
    model = keras.Sequential([keras.Input((2,)), head, soft])
    _behind(model, X)
    assert head.activation is keras.activations.sigmoid and "call" not in vars(soft)
    assert not _behind(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]), X)[1]


def test_a_layer_that_reshapes_hides_them_as_on_tensorflow():
    for reshaping in (
        keras.layers.Flatten(),
        keras.layers.Reshape((2,)),
        keras.layers.Permute((1,)),
    ):
        head = keras.layers.Dense(2, activation="softmax")
        model = keras.Sequential([keras.Input((2,)), head, reshaping])
        assert not _behind(model, X)[1]
        with record_logits(model):
            assert keras_logits(model(X)) is None
        assert "call" not in vars(reshaping)


def test_nested_uses_and_what_somebody_put_on_a_layer():
    head, soft = keras.layers.Dense(2, activation="softmax"), keras.layers.Softmax()
    model = keras.Sequential([keras.Input((2,)), head, soft])
    vars(soft)["call"] = own = lambda inputs: inputs
    with record_logits(model):
        with record_logits(model):
            pass
        assert head.activation is not keras.activations.softmax
        assert vars(soft)["call"] is own
    assert head.activation is keras.activations.softmax
    assert vars(soft)["call"] is own


def test_layers_are_left_as_they_were_after_the_last_thread():
    head, soft = keras.layers.Dense(2, activation="softmax"), keras.layers.Softmax()
    model = keras.Sequential([keras.Input((2,)), head, keras.layers.Reshape((2,)), soft])
    kernel, bias = model.get_weights()
    probabilities = np.asarray(keras.ops.softmax(X @ kernel + bias))
    expected = np.asarray(model(X))
    inside, leave, found = threading.Event(), threading.Event(), []

    def other():
        with record_logits(model):
            inside.set()
            leave.wait(10)
            found.append(_behind(model, X))

    thread = threading.Thread(target=other)
    with record_logits(model):
        thread.start()
        assert inside.wait(10)
        found.append(_behind(model, X))
    # The first thread has left, and the other still finds the logits.
    assert head.activation is not keras.activations.softmax and "call" in vars(soft)
    np.testing.assert_allclose(model(X), expected, rtol=1e-6)
    leave.set()
    thread.join()
    assert len(found) == 2
    for logits, is_known in found:
        assert is_known
        np.testing.assert_allclose(logits, probabilities, rtol=1e-5)
    assert head.activation is keras.activations.softmax and "call" not in vars(soft)
