import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust import backend
from keras_robust.backend.tensorflow import convolution

RNG = np.random.default_rng(0)


def gradients(layer, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
    return outputs, *tape.gradient(outputs, [x, layer.kernel.value, layer.bias.value], upstream)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride"),
    [
        ((28, 28), 1, (5, 5), 1),
        ((9, 14), 1, (3, 5), 1),
        ((13, 11), 3, (5, 6), 1),
        ((28, 28), 1, (4, 4), 2),
        ((15, 14), 3, (7, 7), 2),
        ((11, 10), 2, (6, 5), 2),
        ((14, 17), 1, (9, 8), 3),
    ],
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_gradients_are_those_of_the_convolution(size, channels, kernel, stride, padding, policy):
    layer = keras.layers.Conv2D(6, kernel, stride, padding, activation="tanh", dtype=policy)
    x = tf.constant(RNG.normal(size=(3, *size, channels)).astype("float32"))
    upstream = tf.cast(RNG.normal(size=layer(x).shape), layer.compute_dtype)
    expected = gradients(layer, x, upstream)
    model = keras.Sequential([layer])
    with backend.fast_input_gradients(model):
        assert isinstance(vars(layer)["convolution_op"], convolution._ByBlocks)
        found = gradients(layer, x, upstream)
    np.testing.assert_array_equal(found[0], expected[0])
    atol = 1e-5 if policy == "float32" else 0.1
    for own, other in zip(found[1:], expected[1:], strict=True):
        assert own.dtype == other.dtype and own.shape == other.shape
        np.testing.assert_allclose(own, other, rtol=0, atol=atol)


def test_a_batch_of_unknown_size_and_second_derivatives():
    layer = keras.layers.Conv2D(4, 3, activation="tanh")
    layer.build((None, 8, 8, 1))
    model = keras.Sequential([layer])

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1))])
    def slope_of_slope(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                outputs = tf.reduce_sum(layer(x) ** 2)
            slope = inner.gradient(outputs, x)
        return outer.gradient(slope, [x, layer.kernel.value])

    plain = tf.function(slope_of_slope.python_function)
    x = tf.constant(RNG.normal(size=(5, 8, 8, 1)).astype("float32"))
    expected = plain(x)
    with backend.fast_input_gradients(model):
        found = slope_of_slope(x)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)


class Own(keras.layers.Conv2D):
    """A subclass that might compute something else."""


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride", "block"),
    [
        ((13, 11), 3, (3, 3), 1, 2),
        ((8, 9), 4, (2, 4), 1, 2),
        ((11, 10), 2, (3, 2), 2, 4),
        ((12, 17), 1, (2, 2), 3, 6),
        ((7, 7), 1, (1, 1), 2, 2),
        ((9, 9), 16, (3, 3), 1, 1),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_blocks_of_any_size_give_the_gradient(size, channels, kernel, stride, block, same):
    x = tf.constant(RNG.normal(size=(2, *size, channels)).astype("float32"))
    weights = tf.constant(RNG.normal(size=(*kernel, channels, 5)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = tf.nn.conv2d(x, weights, stride, "SAME" if same else "VALID")
    upstream = tf.constant(RNG.normal(size=outputs.shape).astype("float32"))
    found = convolution.input_gradient(upstream, weights, size, stride, same, block)
    expected = tape.gradient(outputs, x, upstream)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv2D(4, 3, groups=2),
        keras.layers.Conv2D(4, 3, dilation_rate=2),
        keras.layers.Conv2D(4, 3, strides=(1, 2)),
        keras.layers.Conv2D(4, 3, data_format="channels_first"),
        keras.layers.DepthwiseConv2D(3),
        Own(4, 3),
    ],
)
def test_other_convolutions_are_left_alone(layer):
    layer.build((None, 2, 8, 8) if layer.data_format == "channels_first" else (None, 8, 8, 2))
    with backend.fast_input_gradients(keras.Sequential([layer])):
        assert "convolution_op" not in vars(layer)


def test_a_convolution_that_somebody_put_on_the_layer_is_left_alone():
    layer = keras.layers.Conv2D(4, 3, bias_initializer="ones")
    layer.build((None, 8, 8, 1))
    vars(layer)["convolution_op"] = own = lambda x, kernel: 2.0 * x
    with backend.fast_input_gradients(keras.Sequential([layer])):
        assert vars(layer)["convolution_op"] is own
        # Keras calls the attribute, and adds the bias.
        np.testing.assert_array_equal(layer(tf.ones((1, 8, 8, 1))), np.full((1, 8, 8, 4), 3.0))
    assert vars(layer)["convolution_op"] is own


def test_many_channels_unbuilt_layers_and_unknown_sizes_are_left_alone():
    layers = [keras.layers.Conv2D(4, 3, name=str(i)) for i in range(4)]
    layers[0].build((None, 8, 8, 16))
    layers[1].build((None, None, None, 1))
    layers[2].build((None, 8, 8, 3))
    with backend.fast_input_gradients(keras.Sequential(layers)):
        assert ["convolution_op" in vars(layer) for layer in layers] == [False, True, False, False]
        traced = tf.function(layers[1], input_signature=[tf.TensorSpec((None, None, None, 1))])
        x = tf.ones((2, 7, 7, 1))
        np.testing.assert_allclose(traced(x), layers[1](x), atol=1e-6)
    with backend.fast_input_gradients(lambda x: x):
        pass


def test_gpus_use_no_blocks(monkeypatch):
    layer = keras.layers.Conv2D(4, 3)
    layer.build((None, 8, 8, 1))
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    with backend.fast_input_gradients(keras.Sequential([layer])):
        assert "convolution_op" not in vars(layer)


def test_layers_are_restored_after_an_exception_and_after_the_last_thread():
    layer = keras.layers.Conv2D(4, 3)
    layer.build((None, 8, 8, 1))
    model = keras.Sequential([layer])
    with pytest.raises(KeyboardInterrupt), backend.fast_input_gradients(model):
        raise KeyboardInterrupt
    assert "convolution_op" not in vars(layer)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with backend.fast_input_gradients(model):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with backend.fast_input_gradients(model):
        thread.start()
        entered.wait()
    assert "convolution_op" in vars(layer)
    leave.set()
    thread.join()
    assert "convolution_op" not in vars(layer)
