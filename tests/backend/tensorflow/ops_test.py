import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import backend
from keras_robust.backend.tensorflow.ops import derivative_error_context
from tests.support import refusals
from tests.support import tiers

SEEDS = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 9]], "int32")


@pytest.mark.parametrize("sampler", [backend.uniform, backend.normal])
def test_numbers_of_an_example_depend_on_its_own_seed_only(sampler):
    batch = np.asarray(sampler((5, 4, 3), SEEDS))
    other = np.asarray(sampler((2, 4, 3), SEEDS[[3, 0]]))
    np.testing.assert_array_equal(other, batch[[3, 0]])
    assert len(np.unique(batch)) == batch.size


@pytest.mark.parametrize("sampler", [backend.uniform, backend.normal])
def test_one_seed_for_a_batch(sampler):
    found = np.asarray(sampler((5, 4), SEEDS[0]))
    np.testing.assert_array_equal(found, sampler((5, 4), SEEDS[0]))
    assert np.all(found != np.asarray(sampler((5, 4), SEEDS[1])))
    assert len(np.unique(found)) == found.size


@tiers.parametrize("seed", [SEEDS[0], np.arange(400, dtype="int32").reshape(200, 2)])
def test_distributions(seed):
    numbers = np.asarray(backend.uniform((200, 100), seed, minval=-3.0, maxval=5.0)).ravel()
    assert numbers.dtype == np.float32
    assert -3.0 <= numbers.min() < -2.99
    assert 4.99 < numbers.max() < 5.0
    # 20,000 numbers: standard errors of the mean 0.016 and 0.007.
    assert np.mean(numbers) == pytest.approx(1.0, abs=0.06)
    assert np.var(numbers) == pytest.approx(64 / 12, rel=0.03)
    numbers = np.asarray(backend.normal((200, 100), seed)).ravel()
    assert np.mean(numbers) == pytest.approx(0.0, abs=0.03)
    assert np.std(numbers) == pytest.approx(1.0, rel=0.03)


def test_per_example_numbers_keep_their_shape_in_a_traced_function():
    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.int32)])
    def draw(seed):
        numbers = backend.uniform((tf.shape(seed)[0], 4, 3), seed)
        assert numbers.shape.as_list()[1:] == [4, 3]
        return numbers

    np.testing.assert_array_equal(draw(SEEDS), backend.uniform((5, 4, 3), SEEDS))


def test_fold_in_changes_the_seed():
    seed = tf.constant(SEEDS[0])
    folded = [tuple(np.asarray(backend.fold_in(seed, number))) for number in range(20)]
    assert len({*folded, tuple(SEEDS[0])}) == 21
    np.testing.assert_array_equal(backend.fold_in(seed, 3), folded[3])
    assert tuple(np.asarray(backend.fold_in(tf.constant(SEEDS[1]), 3))) != folded[3]


def test_fold_in_of_many_seeds_folds_each_with_its_number():
    numbers = np.array([3, 0, 7, 7, 100], "int32")
    found = np.asarray(backend.fold_in(SEEDS, numbers))
    expected = [np.asarray(backend.fold_in(*pair)) for pair in zip(SEEDS, numbers, strict=True)]
    np.testing.assert_array_equal(found, expected)


def _per_example(x):
    """A per-example function with an auxiliary result."""
    flat = keras.ops.reshape(x, (keras.ops.shape(x)[0], -1))
    return keras.ops.sum(keras.ops.sin(flat) * flat**2, axis=-1), flat[:, 0] > 0.0


def test_value_and_input_gradient_against_finite_differences():
    x = np.random.default_rng(0).normal(size=(3, 2, 2))
    (values, auxiliary), gradient = backend.value_and_input_gradient(
        _per_example, tf.constant(x, "float32")
    )

    def value(point):
        return np.sum(np.sin(point) * point**2, axis=(1, 2))

    np.testing.assert_allclose(values, value(x), rtol=1e-5)
    np.testing.assert_array_equal(auxiliary, x[:, 0, 0] > 0.0)
    for index in np.ndindex(2, 2):
        moved = np.zeros((2, 2))
        moved[index] = 1e-6
        expected = (value(x + moved) - value(x - moved)) / 2e-6
        np.testing.assert_allclose(gradient[(slice(None), *index)], expected, rtol=1e-4)


def test_value_and_input_gradient_leaves_the_tape_of_weights_alone():
    weight = tf.Variable([[2.0], [3.0]])
    x = tf.constant([[1.0, 1.0]])
    with tf.GradientTape() as tape:
        _, gradient = backend.value_and_input_gradient(lambda x: ((x @ weight)[:, 0], None), x)
    np.testing.assert_array_equal(gradient, [[2.0, 3.0]])
    assert tape.watched_variables() == (weight,)


def test_sparse_gradients_become_dense():
    def function(x):
        return keras.ops.take(x, [0, 0, 1], axis=0)[:2, 0], None

    _, gradient = backend.value_and_input_gradient(function, tf.constant([[1.0], [2.0]]))
    assert isinstance(gradient, tf.Tensor)
    np.testing.assert_array_equal(gradient, [[2.0], [0.0]])


def test_no_gradient():
    def quantised(x):
        return keras.ops.cast(keras.ops.cast(x, "int32"), "float32")[:, 0], None

    message = (
        "no gradient with respect to its input. A gradient attack would find nothing, .* "
        r"Received: an input of shape \(2, 3\) and dtype float32"
    )
    with refusals.assert_refused(message):
        backend.value_and_input_gradient(quantised, tf.zeros((2, 3)))


def test_is_symbolic():
    seen = []
    tf.function(lambda x: seen.append(backend.is_symbolic(x)))(tf.zeros(2))
    assert seen == [True]
    assert not backend.is_symbolic(tf.zeros(2))
    assert not backend.is_symbolic(np.zeros(2))


def test_compile_function_traces_once_for_all_batch_sizes_but_the_first():
    traced = []

    @backend.compile_function
    def double(x):
        traced.append(x.shape)
        return 2 * x

    for size in (2, 3, 5, 2, 7):
        np.testing.assert_array_equal(double(tf.ones((size, 2))), np.full((size, 2), 2.0))
    assert len(traced) == 2


def test_compile_function_counts_traces_of_each_function_apart(caplog):
    def add(number):
        return backend.compile_function(lambda x: x + number)

    # TensorFlow warns of the fifth trace of one function, and again until it has warned twice.
    for number in range(8):
        assert float(add(number)(tf.constant(1.0))) == 1.0 + number
    assert "retracing" not in caplog.text


def test_keras_logits():
    x = tf.constant([[1.0, 2.0]])
    assert backend.keras_logits(keras.ops.softmax(x)) is x
    assert backend.keras_logits(keras.activations.sigmoid(x)) is x
    assert backend.keras_logits(2 * keras.ops.softmax(x)) is None
    assert backend.keras_logits(np.ones((1, 2))) is None


def test_trace_output_runs_the_function_on_tensors():
    seen = []

    def function(inputs):
        seen.append(inputs["b"])
        return tf.cast(tf.reduce_sum(inputs["a"], axis=1), "float16")

    inputs = {"a": keras.KerasTensor((None, 4, 3)), "b": keras.KerasTensor((2,), "int32")}
    output = backend.trace_output(function, inputs)
    assert isinstance(output, keras.KerasTensor)
    assert (output.shape, output.dtype) == ((None, 3), "float16")
    assert isinstance(seen[0], tf.Tensor) and seen[0].dtype == "int32"


@pytest.mark.parametrize("traced", [False, True])
def test_host_function_runs_numpy_and_has_no_gradient(traced):
    def double(x):
        assert type(x) is np.ndarray
        return 2.0 * x

    def call(x):
        outputs = backend.host_function(double, x, 3)
        assert tuple(outputs.shape) == (2, 3)
        return outputs

    x = tf.constant(np.arange(6.0, dtype="float32").reshape(2, 3))
    function = tf.function(call) if traced else call
    np.testing.assert_array_equal(function(x), 2.0 * x)
    with pytest.raises(ValueError, match="no gradient with respect to its input"):
        backend.value_and_input_gradient(lambda x: (function(x)[:, 0], ()), x)


@tiers.parametrize("interpolation", ["bicubic", "nearest", "lanczos3"])
@tiers.parametrize("objective", ["jacobian", "input_gradient", "grad_align"])
def test_an_operation_without_a_second_derivative_is_named(interpolation, objective):
    x, y = np.full((4, 4, 4, 1), 0.5, "float32"), np.array([0, 1, 0, 1])
    resizing = keras.layers.Resizing(6, 6, interpolation=interpolation)
    layers = [keras.Input((4, 4, 1)), resizing, keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    training = kr.AdvTrain(kr.Linf(0.1), attack="fgsm", objective=objective, warmup=0)
    with pytest.raises(ValueError, match="no second derivative.*Received: the operation .*Grad"):
        model.fit(x, y, verbose=0, callbacks=[training])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("gradient registry has no entry for: RootGrad", "second derivative.*: the operation Root"),
        ("No gradient defined for operation 'a/b' (op type: Bitcast)", "no derivative.*n Bitcast$"),
    ],
)
def test_messages_of_tensorflow(message, expected):
    with pytest.raises(ValueError, match=expected), derivative_error_context():
        raise LookupError(message)
