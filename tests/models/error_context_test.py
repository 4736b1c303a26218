import keras
import numpy as np
import pytest

from keras_robust.models.error_context import error_context
from tests.support import refusals


def test_a_keras_error_becomes_a_message_with_the_inputs():
    layer = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = {"a": np.zeros((2, 5)), "b": [np.zeros(7)]}
    with refusals.assert_refused("^It fails: Input 0 .*incompatible") as caught:
        with error_context("It fails", inputs=x, labels=None):
            layer(np.zeros((2, 5)))
    text = str(caught.value)
    assert text.endswith("Received: inputs {'a': (2, 5), 'b': [(7,)]}, labels ()")
    assert "\n" not in text and "\x1b" not in text
    assert "Exception encountered" not in text and caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "error", [TypeError("no"), KeyError("no"), IndexError("no"), ValueError("no.")]
)
def test_what_a_layer_raises_is_a_value_error(error):
    with refusals.assert_refused("^It fails: '?no'?[.] Received: x \\(2,\\)$"):
        with error_context("It fails", x=np.zeros(2)):
            raise error


def test_an_error_without_a_message_shows_its_name():
    with pytest.raises(ValueError, match="It fails: ValueError[.] Received: "):
        with error_context("It fails"):
            raise ValueError


@pytest.mark.parametrize(
    "error",
    [ValueError("Wrong. Received: 3"), RuntimeError("no"), KeyboardInterrupt(), MemoryError()],
)
def test_other_errors_and_our_own_pass(error):
    with pytest.raises(type(error)) as caught:
        with error_context("It fails", x=1):
            raise error
    assert caught.value is error


def test_errors_of_shape_inference_show_their_cause():
    class Broken(keras.layers.Layer):
        def call(self, x):
            raise TypeError("no such product")

    with refusals.assert_refused("^It fails: no such product[.] Received: x \\(2,\\)$"):
        with error_context("It fails", x=np.zeros(2)):
            Broken()(keras.Input((2,)))


def test_the_message_shows_the_expected_shape_and_no_values():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    x = np.random.default_rng(0).uniform(size=(40, 64)).astype("float32")
    with refusals.assert_refused(r"Expected shape \(None, 8, 8, 1\).*Received: ") as error:
        with error_context("The model cannot run on these inputs", inputs=x):
            model(x)
    assert "0." not in str(error.value)
