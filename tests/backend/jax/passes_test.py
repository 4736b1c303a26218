import jax
import keras
import numpy as np

from keras_robust.backend.jax.function import Function
from keras_robust.backend.jax.passes import forgotten_pass
from tests.support import passes


def test_state_is_put_back_and_seeds_go_on():
    for wrap in (lambda function: function, Function):
        layer, same, x = passes.layer(), passes.layer(), jax.numpy.zeros((1, 2))
        layer.count.assign(5.0)
        found = wrap(lambda x, layer=layer: passes.run(layer, x))(x)
        draw = keras.random.normal((), seed=same.seeds)
        np.testing.assert_allclose(found, np.full((1, 2), 6.0 + draw), rtol=1e-5)
        assert float(layer.count.value) == 5.0
        np.testing.assert_array_equal(layer.seeds.state.value, same.seeds.state.value)


def test_a_forgotten_pass_assigns_nothing():
    layer = passes.layer()
    with forgotten_pass(layer):
        layer(jax.numpy.zeros((1, 2)))
    assert float(layer.count.value) == 0.0
    assert int(layer.seeds.state.value[1]) == 0
