import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.layers import SpectralDense
from tests.support import backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 7)).astype("float32")


def built(units=4, features=7, **arguments):
    keras.utils.set_random_seed(0)
    layer = SpectralDense(units, **{"kernel_initializer": "random_normal", **arguments})
    layer.build((None, features))
    return layer


def singular(layer):
    kernel = np.asarray(layer.effective_kernel(), "float64")
    return np.linalg.svd(kernel, compute_uv=False)


@pytest.mark.parametrize("units", [3, 7, 12])
def test_is_the_orthogonal_matrix(units):
    layer = built(units, num_steps=40)
    layer.bias.assign(RNG.normal(size=units))
    np.testing.assert_allclose(singular(layer), 1.0, atol=0.02)
    expected = X @ np.asarray(layer.effective_kernel()) + np.asarray(layer.bias)
    np.testing.assert_allclose(layer(X), expected, rtol=1e-4, atol=1e-5)


def test_scale_of_the_kernel_plays_no_role_and_steps_do():
    layer = built(num_steps=3)
    before = np.array(layer.effective_kernel())
    layer._kernel.assign(50.0 * layer.kernel)
    np.testing.assert_allclose(layer.effective_kernel(), before, rtol=1e-3, atol=1e-5)
    assert singular(built(num_steps=1))[-1] < singular(built(num_steps=4))[-1] - 0.05
    assert singular(built(num_steps=1))[0] <= 1.0 + 1e-6


@pytest.mark.exhaustive
def test_stays_so_in_a_training(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((7,)),
            SpectralDense(8, kernel_initializer="random_normal"),
            kr.layers.GroupSort(),
            SpectralDense(2, activation="linear"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    x = RNG.normal(size=(200, 7)).astype("float32")
    y = (x[:, 0] + x[:, 1] > 0).astype("int32")
    start = np.array(model.layers[0].effective_kernel())
    model.fit(x, y, epochs=8, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.9
    assert np.abs(model.layers[0].effective_kernel() - start).max() > 0.05
    for layer in (model.layers[0], model.layers[2]):
        assert singular(layer)[0] <= 1.0 + 1e-5
    gaps = np.linalg.norm(np.asarray(model(x[:100])) - np.asarray(model(x[100:])), axis=-1)
    assert np.all(gaps <= np.linalg.norm(x[:100] - x[100:], axis=-1) * (1 + 1e-4))
    model.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(revived(x), model(x), atol=1e-6)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(x), model(x), atol=1e-5)
    np.testing.assert_allclose(backends.traced(model, True)(x), model(x), atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    layer, plain = built(dtype=policy), built()
    assert layer(X).dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(keras.ops.cast(layer(X), "float32"), plain(X), atol=0.05)


def test_no_bias_and_wrong_steps():
    layer = built(use_bias=False)
    np.testing.assert_allclose(layer(0 * X), 0.0)
    with pytest.raises(ValueError, match="`num_steps` must be a whole number from 1 to 100"):
        SpectralDense(3, num_steps=0)
