import jax
import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from tests.support import refusals

SEEDS = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [-9, 9]], "int32")


@pytest.mark.parametrize("sampler", [backend.uniform, backend.normal])
def test_numbers_of_an_example_depend_on_its_own_seed_only(sampler):
    batch = np.asarray(sampler((5, 4, 3), SEEDS))
    other = np.asarray(sampler((2, 4, 3), SEEDS[[3, 0]]))
    np.testing.assert_array_equal(other, batch[[3, 0]])
    assert len(np.unique(batch)) == batch.size
    one = np.asarray(sampler((5, 4), SEEDS[0]))
    assert len(np.unique(one)) == one.size


@pytest.mark.parametrize("seed", [SEEDS[0], np.arange(400, dtype="int32").reshape(200, 2)])
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


def test_fold_in_changes_the_seed():
    folded = [tuple(np.asarray(backend.fold_in(SEEDS[0], number))) for number in range(20)]
    assert len({*folded, tuple(SEEDS[0])}) == 21
    assert np.asarray(backend.fold_in(SEEDS[0], 3)).dtype == np.int32
    assert tuple(np.asarray(backend.fold_in(SEEDS[1], 3))) != folded[3]


def test_fold_in_of_many_seeds_folds_each_with_its_number():
    numbers = np.array([3, 0, 7, 7, 100], "int32")
    found = np.asarray(backend.fold_in(SEEDS, numbers))
    expected = [np.asarray(backend.fold_in(*pair)) for pair in zip(SEEDS, numbers, strict=True)]
    np.testing.assert_array_equal(found, expected)


def _per_example(x):
    flat = keras.ops.reshape(x, (len(x), -1))
    return keras.ops.sum(keras.ops.sin(flat) * flat**2, axis=-1), flat[:, 0] > 0.0


@pytest.mark.parametrize("compiled", [False, True])
def test_value_and_input_gradient_against_finite_differences(compiled):
    x = np.random.default_rng(0).normal(size=(3, 2, 2))

    def run(x):
        return backend.value_and_input_gradient(_per_example, x)

    (values, auxiliary), gradient = (jax.jit(run) if compiled else run)(x.astype("float32"))

    def value(point):
        return np.sum(np.sin(point) * point**2, axis=(1, 2))

    np.testing.assert_allclose(values, value(x), rtol=1e-5)
    np.testing.assert_array_equal(auxiliary, x[:, 0, 0] > 0.0)
    for index in np.ndindex(2, 2):
        moved = np.zeros((2, 2))
        moved[index] = 1e-6
        expected = (value(x + moved) - value(x - moved)) / 2e-6
        np.testing.assert_allclose(gradient[(slice(None), *index)], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: keras.ops.cast(keras.ops.cast(x, "int32"), "float32")[:, 0],
        lambda x: keras.ops.round(x)[:, 0],
        lambda x: keras.ops.stop_gradient(x)[:, 0],
        lambda x: backend.host_function(lambda x: 2.0 * x, x, 3)[:, 0],
        lambda x: keras.ops.ones(2),
    ],
)
def test_no_gradient(function):
    message = (
        r"no gradient with respect to its input.*leaves JAX \(`pure_callback`\).*"
        r"Received: an input of shape \(2, 3\) and dtype float32"
    )
    for run in (lambda x: x, jax.jit):
        with refusals.assert_refused(message, error=backend.NoGradientError):
            run(lambda x: backend.value_and_input_gradient(lambda x: (function(x), ()), x))(
                np.zeros((2, 3), "float32")
            )


def test_a_gradient_of_zero_is_one():
    _, gradient = backend.value_and_input_gradient(lambda x: (0.0 * x[:, 0], ()), np.ones((2, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_compiled_functions_see_what_variables_hold_and_assign_to_them():
    weight, count = keras.Variable([1.0, 2.0]), keras.Variable(0, dtype="int32")

    def function(x):
        count.assign_add(1)
        return x * weight

    compiled = backend.compile_function(function)
    for size, scale in ((2, 1.0), (2, 3.0), (5, 3.0), (2, -1.0)):
        weight.assign([scale, 2.0 * scale])
        np.testing.assert_array_equal(compiled(np.ones((size, 2))), [[scale, 2.0 * scale]] * size)
    assert int(count) == 4


def test_a_model_that_is_not_built_is_built_by_a_compiled_function():
    model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    x = np.ones((4, 2), "float32")
    found = backend.compile_function(lambda x: model(x, training=False))(x)
    assert model.built
    np.testing.assert_allclose(found, x @ model.get_weights()[0], rtol=1e-6)


def test_smaller_batches_are_padded_and_not_traced():
    traced = []

    def double(x, radius, label=None):
        traced.append(x.shape)
        return {"twice": 2.0 * x + radius, "shift": radius}

    compiled = backend.compile_function(double, any_batch_size=True)
    for size in (8, 5, 4, 3, 2, 8, 1):
        x = np.arange(2.0 * size).reshape(size, 2)
        found = compiled(x, np.float32(1.0))
        np.testing.assert_array_equal(found["twice"], 2.0 * x + 1.0)
        assert found["shift"].shape == ()
    assert {shape[0] for shape in traced} == {8, 3, 1}
    # Once to find the variables, and once to be compiled.
    assert len(traced) <= 6


def test_probabilities_of_traced_layers_have_logits():
    for last in (
        [keras.layers.Dense(3, activation="softmax")],
        [keras.layers.Dense(3), keras.layers.Softmax()],
        [keras.layers.Dense(3), keras.layers.Activation("softmax")],
    ):
        model = keras.Sequential([keras.Input((2,)), *last])
        before = [vars(layer).copy() for layer in model.layers]
        kernel = 300.0 * np.arange(6.0).reshape(2, 3)
        model.set_weights([kernel, np.zeros(3)])
        x = np.array([[1.0, 2.0]], "float32")
        found = jax.jit(lambda x, model=model: models.Classifier(model).logits(x))(x)
        # The probabilities are rounded to 0 and 1, and hide the difference.
        np.testing.assert_allclose(found, x @ kernel, rtol=1e-6)
        assert [set(vars(layer)) for layer in model.layers] == [set(one) for one in before]


def test_trace_output_finds_what_depends_on_the_batch():
    def function(inputs):
        return keras.ops.cast(keras.ops.sum(inputs["a"], axis=1), "float16")

    inputs = {"a": keras.KerasTensor((None, 4, 3)), "b": keras.KerasTensor((2,), "int32")}
    output = backend.trace_output(function, inputs)
    assert isinstance(output, keras.KerasTensor)
    assert (tuple(output.shape), output.dtype) == ((None, 3), "float16")


def test_require_all():
    with pytest.raises(ValueError, match="Expected small ones"):
        backend.require_all(np.array([True, False]), "Expected small ones", 1.0)
    assert backend.require_all(np.array([True, True]), "Expected small ones", 1.0) == 1.0
    assert float(jax.jit(lambda x: backend.require_all(x < 1.0, "small", x))(3.0)) == 3.0


def test_is_symbolic():
    seen = []
    jax.jit(lambda x: seen.append(backend.is_symbolic(x)))(np.zeros(2))
    assert seen == [True]
    assert not backend.is_symbolic(keras.ops.zeros(2))
    assert not backend.is_symbolic(np.zeros(2))


def test_a_pool_is_filled_from_a_model_that_draws_noise():
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    smoothed = kr.layers.RandomizedSmoothing(base, 0.1, num_samples=5)
    smoothed.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=False))
    x = np.random.default_rng(0).uniform(size=(8, 4)).astype("float32")
    before = base.get_weights()[0]
    pool = kr.objectives.AdversarialPool(pool_size=8, refresh=2)
    robust = kr.AdvTrain(kr.Linf(0.1), attack=kr.attacks.FGSM(), objective=pool, warmup=0)
    history = smoothed.fit(x, np.arange(8) % 2, batch_size=4, verbose=0, callbacks=[robust])
    assert np.isfinite(history.history["loss"][0])
    assert np.any(base.get_weights()[0] != before)


@pytest.mark.parametrize(
    "attack",
    [
        kr.attacks.RandomNoise(num_samples=4),
        kr.attacks.Square(num_queries=5),
        kr.attacks.SPSA(num_steps=2, num_samples=4),
        kr.attacks.HopSkipJump(num_steps=2),
        kr.attacks.DeepFool(num_steps=3),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_attacks_on_models_that_draw_noise(attack):
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    smoothed = kr.layers.RandomizedSmoothing(base, 0.1, num_samples=5)
    x = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32")
    found = attack.run(smoothed, x, np.array([0, 1, 0, 1, 0]), kr.L2(0.3))
    assert np.linalg.norm(found.x_adv - x, axis=-1).max() < 0.3 + 1e-5
