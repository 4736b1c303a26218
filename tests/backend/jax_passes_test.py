import jax
import keras
import numpy as np

from keras_robust.backend.jax_function import Function
from keras_robust.backend.jax_passes import forgotten_pass
from keras_robust.backend.jax_passes import inference_pass


class Passing(keras.layers.Layer):
    """Changes a state and draws a number."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x + self.count + keras.random.normal((), seed=self.seeds)


def _pass(layer, x):
    with inference_pass() as put_back:
        outputs = layer(x)
    assert put_back == [layer.count]
    return outputs


def _layer():
    layer = Passing()
    layer.build((None, 2))
    return layer


def test_state_is_put_back_and_seeds_go_on():
    for wrap in (lambda function: function, Function):
        layer, same, x = _layer(), _layer(), jax.numpy.zeros((1, 2))
        layer.count.assign(5.0)
        found = wrap(lambda x, layer=layer: _pass(layer, x))(x)
        draw = keras.random.normal((), seed=same.seeds)
        np.testing.assert_allclose(found, np.full((1, 2), 6.0 + draw), rtol=1e-5)
        assert float(layer.count.value) == 5.0
        np.testing.assert_array_equal(layer.seeds.state.value, same.seeds.state.value)


def test_of_a_forgotten_pass_nothing_stays():
    layer = _layer()
    with forgotten_pass(layer):
        layer(jax.numpy.zeros((1, 2)))
    assert float(layer.count.value) == 0.0
    assert int(layer.seeds.state.value[1]) == 0
