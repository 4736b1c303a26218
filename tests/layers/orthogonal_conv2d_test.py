import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.layers import OrthogonalConv2D
from tests.support import backends
from tests.support import refusals
from tests.support import tiers

RNG = np.random.default_rng(0)


def built(channels, filters, size=3, image=(6, 5), **arguments):
    keras.utils.set_random_seed(1)
    layer = OrthogonalConv2D(filters, size, **arguments)
    layer.build((None, *image, channels))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def spectrum(layer, frequencies=8):
    """Singular values of the kernel at every frequency, `(frequencies ** 2, values)`."""
    kernel = np.asarray(layer.effective_kernel(), "float64")
    shape = (frequencies, frequencies)
    return np.linalg.svd(np.fft.fft2(kernel, shape, axes=(0, 1)), compute_uv=False)


@tiers.parametrize(("channels", "filters"), [(4, 4), (3, 6), (6, 3), (1, 4), (5, 1)])
@tiers.parametrize("size", [1, 2, 3, 5])
def test_every_frequency_is_orthogonal(channels, filters, size):
    layer = built(channels, filters, size, num_steps=60)
    assert layer.effective_kernel().shape == (size, size, channels, filters)
    values = spectrum(layer)
    # From wide to narrow or from narrow to wide, the smaller side determines the rank.
    assert np.all(values <= 1.0 + 1e-5)
    np.testing.assert_allclose(values, 1.0, atol=1e-3)


@pytest.mark.exhaustive
def test_the_kernel_uses_all_of_its_taps():
    kernel = np.abs(built(4, 4, 3, num_steps=40).effective_kernel()).sum(axis=(2, 3))
    assert np.all(kernel > 0.01)


@tiers.parametrize("num_steps", [1, 2, 5])
def test_the_norm_is_at_most_one_for_any_number_of_steps(num_steps):
    assert spectrum(built(4, 6, 4, num_steps=num_steps)).max() <= 1.0 + 1e-5


@tiers.parametrize("padding", ["same", "valid"])
@tiers.parametrize("strides", [1, 2])
def test_the_layer_as_a_matrix_has_no_singular_value_above_one(padding, strides):
    layer = built(2, 4, 3, padding=padding, strides=strides, use_bias=False, num_steps=40)
    inputs = np.eye(60, dtype="float32").reshape(60, 6, 5, 2)
    matrix = np.asarray(layer(inputs), "float64").reshape(60, -1)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert 0.9 < values[0] <= 1.0 + 1e-5


@tiers.parametrize("padding", ["same", "valid"])
def test_is_the_convolution_with_the_kernel(padding):
    layer = built(3, 4, 3, padding=padding, strides=2)
    x = RNG.normal(size=(2, 6, 5, 3)).astype("float32")
    plain = keras.layers.Conv2D(4, 3, padding=padding, strides=2)
    plain.build(x.shape)
    plain.set_weights([layer.effective_kernel(), layer.bias])
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-4, atol=1e-5)
    symbolic = layer(keras.Input((6, 5, 3)))
    assert tuple(symbolic.shape)[1:] == tuple(plain(x).shape)[1:]


@pytest.mark.exhaustive
def test_trains_and_survives_files_and_xla(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 5, 1)),
            OrthogonalConv2D(4, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    x = RNG.normal(size=(64, 6, 5, 1)).astype("float32")
    y = (x[:, 0, 0, 0] * x[:, 1, 1, 0] > 0).astype("int32")
    start = np.array(model.layers[0].effective_kernel())
    history = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert np.abs(model.layers[0].effective_kernel() - start).max() > 0.05
    assert spectrum(model.layers[0]).max() <= 1.0 + 1e-5
    model.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(revived(x), model(x), atol=1e-6)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(x), model(x), atol=1e-5)
    np.testing.assert_allclose(backends.traced(model, True)(x), model(x), atol=1e-5)


def test_half_precision():
    layer = OrthogonalConv2D(4, 2, dtype="mixed_bfloat16")
    assert layer(np.ones((1, 4, 4, 2), "float32")).dtype == "bfloat16"
    assert layer.effective_kernel().dtype == "float32"


@pytest.mark.parametrize(
    "arguments", [{"filters": 0}, {"kernel_size": 0}, {"strides": 1.5}, {"padding": "causal"}]
)
def test_wrong_arguments(arguments):
    (name,) = arguments
    refusals.assert_argument_refused(
        functools.partial(OrthogonalConv2D, filters=3),
        f"Argument `{name}` must be .*Received: {name}=",
        **arguments,
    )
