import keras
import pytest

import keras_robust as kr
from keras_robust.backend import layers_of
from keras_robust.models import rejecting_layers
from keras_robust.models.softmax_end import ends_in_softmax


def test_layers_within_layers_are_found():
    dense, guard = keras.layers.Dense(2), kr.layers.InputGuard((0.0, 1.0))
    inner = keras.Sequential([keras.Input((3,)), guard, dense])
    model = keras.Sequential([inner, kr.layers.InputGuard((0.0, 1.0), outside="clip")])
    found = layers_of(model)
    assert {id(one) for one in (model, inner, dense, guard)} <= {id(one) for one in found}
    assert rejecting_layers(model) == [guard]
    # Four layers, the model, and the inputs of both.
    assert len({id(one) for one in found}) == 7
    assert layers_of(lambda x: x) == []


class Own(keras.Model):
    """A model without a graph of layers."""

    def __init__(self, *activations):
        super().__init__()
        self.parts = [keras.layers.Dense(2, activation=one) for one in activations]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def _sequential(*tail):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="tanh"), *tail])


def _functional(*layers):
    inputs = x = keras.Input((3,))
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def _dense(activation):
    return keras.layers.Dense(2, activation=activation)


@pytest.mark.parametrize(
    "model,expected",
    [
        (_sequential(_dense("softmax")), True),
        (_sequential(_dense("sigmoid")), False),
        (_sequential(_dense("softmax"), _dense("sigmoid")), False),
        (_sequential(_dense("sigmoid"), _dense("softmax")), True),
        (_sequential(keras.layers.Softmax()), True),
        (_sequential(keras.layers.Activation("softmax")), True),
        (keras.Sequential([_dense("softmax")]), True),
        (keras.Sequential([]), False),
        (_functional(_dense("sigmoid"), _dense("softmax")), True),
        (_functional(_dense("softmax"), _dense("sigmoid")), False),
        (_functional(_functional(_dense("softmax"))), True),
        (_functional(_sequential(_dense("sigmoid"))), False),
        (Own("tanh", "softmax"), True),
        (Own("softmax", "sigmoid"), False),
        (Own("tanh"), False),
        (lambda x: x, False),
    ],
)
def test_a_final_softmax_is_distinguished_from_a_sigmoid(model, expected):
    assert ends_in_softmax(model) is expected
