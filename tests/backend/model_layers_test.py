import keras

import keras_robust as kr
from keras_robust.backend.model_layers import layers_of
from keras_robust.backend.model_layers import rejecting_layers


def test_layers_within_layers_are_found():
    dense, guard = keras.layers.Dense(2), kr.layers.InputGuard((0.0, 1.0))
    inner = keras.Sequential([keras.Input((3,)), guard, dense])
    model = keras.Sequential([inner, kr.layers.InputGuard((0.0, 1.0), outside="clip")])
    found = layers_of(model)
    assert {id(one) for one in (model, inner, dense, guard)} <= {id(one) for one in found}
    assert rejecting_layers(model) == [guard]
    assert layers_of(lambda x: x) == []
