import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust import layers
from tests.support import backends
from tests.support import gradients
from tests.support import refusals
from tests.support import tiers

NAN, INF = float("nan"), float("inf")
ROWS = np.array([[0.5, 1.5], [-1.0, 1.0], [NAN, 0.0], [INF, 0.0], [0.0, -INF], [1e30, 0.0]])
BOUNDS = ([-1.0, 0.0], 2.0)
FINE = {
    ("reject", "reject"): [0, 1],
    ("clip", "reject"): [0, 1, 5],
    ("reject", "replace"): [0, 1, 2, 3, 4],
    ("clip", "replace"): [0, 1, 2, 3, 4, 5],
}
CHOICES = list(itertools.product(["reject", "clip"], ["reject", "replace"]))


def guard(outside="reject", non_finite="reject", bounds=BOUNDS, **arguments):
    return layers.InputGuard(bounds, outside=outside, non_finite=non_finite, **arguments)


def mended(x):
    """Returns `ROWS` after clipping and replacing; the middles of the bounds are 0.5 and 1."""
    return np.clip(np.where(np.isnan(x), [0.5, 1.0], x), [-1.0, 0.0], 2.0)


@pytest.mark.parametrize(("outside", "non_finite"), CHOICES)
def test_every_choice(outside, non_finite):
    layer, fine = guard(outside, non_finite), FINE[outside, non_finite]
    np.testing.assert_array_equal(layer.accepts(ROWS), np.isin(np.arange(6), fine))
    np.testing.assert_allclose(layer(ROWS[fine]), mended(ROWS[fine]))
    for number in set(range(6)) - set(fine):
        with pytest.raises(backends.REFUSED, match="Expected finite values"):
            layer(ROWS[[0, number]])


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_one_bad_value_anywhere_is_found(axis):
    x = np.full((3, 4, 5, 2), 0.5, "float32")
    place = [1, 0, 0, 0]
    place[axis] = -1
    x[tuple(place)] = 1.0001
    np.testing.assert_array_equal(layers.InputGuard().accepts(x), [True, False, True])


def test_the_message_says_what_was_expected():
    with refusals.assert_refused(r"within \[0.0, 1.0\]. Received", error=backends.REFUSED):
        layers.InputGuard()(ROWS)
    with pytest.raises(backends.REFUSED, match=r"finite values. Received"):
        guard("clip")(ROWS)


def test_without_bounds_only_numbers_pass():
    layer = layers.InputGuard(None)
    np.testing.assert_array_equal(layer.accepts(ROWS), [True, True, False, False, False, True])
    np.testing.assert_allclose(layer(ROWS[[0, 5]]), ROWS[[0, 5]])
    np.testing.assert_array_equal(layer(np.array([[7]], "uint8")), [[7.0]])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_integer_pictures_are_scaled(dtype):
    largest = np.iinfo(dtype).max
    x = np.array([[0, 0], [largest, largest], [51, 102]], dtype)
    expected = np.array([-1.0, 0.0]) + x / largest * np.array([3.0, 2.0])
    found = guard()(x)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[:2], [[-1.0, 0.0], [2.0, 2.0]])


@pytest.mark.parametrize(("dtype", "integers"), [("uint8", "cast"), ("int32", "scale")])
def test_other_integers_are_cast(dtype, integers):
    layer = layers.InputGuard((0, 16), integers=integers)
    found = layer(np.array([[0, 3], [16, 1]], dtype))
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, [[0.0, 3.0], [16.0, 1.0]])
    np.testing.assert_array_equal(layer.accepts(np.array([[17, 3], [16, 1]], dtype)), [False, True])


def test_gradient():
    x = keras.ops.convert_to_tensor([[0.5, 3.0], [-2.0, 1.0], [NAN, 1.5]])

    def compute(x):
        return guard("clip", "replace")(x) * keras.ops.convert_to_tensor([[2.0, 3.0]])

    values, slopes = gradients.of(compute, x)
    np.testing.assert_array_equal(slopes, [[2.0, 0.0], [0.0, 3.0], [0.0, 3.0]])


def test_gradient_of_accepted_values_is_the_identity():
    x = keras.ops.convert_to_tensor([[0.5, 1.0], [-1.0, 2.0]])

    def compute(x):
        return guard()(x) * keras.ops.convert_to_tensor([[2.0, 3.0], [4.0, 5.0]])

    values, slopes = gradients.of(compute, x)
    np.testing.assert_array_equal(slopes, [[2.0, 3.0], [4.0, 5.0]])


@backends.with_and_without_xla
def test_a_graph_refuses_and_xla_makes_nan(jit_compile):
    layer = guard()
    compiled = backends.traced(layer, jit_compile)
    x = keras.ops.convert_to_tensor(ROWS, "float32")
    np.testing.assert_array_equal(compiled(x[:2]), ROWS[:2])
    if not jit_compile and not backends.IS_JAX:
        with pytest.raises(backends.REFUSED, match="Expected finite values"):
            compiled(x)
        return
    found = np.asarray(compiled(x))
    np.testing.assert_array_equal(found[:2], ROWS[:2])
    assert np.isnan(found[2:]).all()


def test_half_precision_checks_before_it_rounds():
    layer = layers.InputGuard(dtype="mixed_bfloat16")
    x = np.array([[1.0], [1.001]], "float32")
    assert keras.ops.cast(x, "bfloat16")[1] == 1.0
    np.testing.assert_array_equal(layer.accepts(x), [True, False])
    assert layer(x[:1]).dtype == "bfloat16"


@tiers.parametrize("policy", ["float32", "mixed_float16"])
def test_files_and_saved_models_guard_as_well(tmp_path, policy):
    model = keras.Sequential(
        [keras.Input((2,)), guard("reject", "replace", dtype=policy), keras.layers.Dense(3)]
    )
    model.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    assert revived.layers[0].get_config() == model.layers[0].get_config()
    model.export(tmp_path / "1", verbose=False)
    served = tf.saved_model.load(tmp_path / "1")
    for function in (revived, served.serve):
        x = keras.ops.convert_to_tensor(ROWS, "float32")
        np.testing.assert_allclose(function(x[:5]), model(x[:5]), rtol=1e-5)
        if backends.IS_JAX and function is served.serve:
            # Keras exports what JAX has compiled; `kr.export_saved_model` keeps the error.
            np.testing.assert_array_equal(
                np.isnan(function(x)).all(-1), ~model.layers[0].accepts(x)
            )
            continue
        with pytest.raises(backends.REFUSED, match="Expected finite values within"):
            function(x)


def test_an_empty_batch_passes():
    assert guard()(np.zeros((0, 2), "float32")).shape == (0, 2)


def test_training_through_the_guard():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), layers.InputGuard(), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).uniform(size=(8, 2)).astype("float32")
    y = (x[:, 0] > 0.5).astype("int64")
    for jit_compile in (False, True):
        model.jit_compile = jit_compile
        losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outside": "clamp"}, r"`outside` must be one of \['reject', 'clip'\].*outside='clamp'"),
        ({"non_finite": None}, "`non_finite` must be one of.*Received: non_finite=None"),
        ({"integers": "round"}, "`integers` must be one of.*Received: integers='round'"),
        ({"bounds": (1, 0)}, "low < high"),
        ({"bounds": None, "non_finite": "replace"}, "no value can replace infinities"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(layers.InputGuard, message, **arguments)
