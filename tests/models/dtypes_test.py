import threading

import keras
import numpy as np
import pytest

from keras_robust.models.dtypes import compute_dtype_scope
from keras_robust.models.dtypes import current_dtype
from tests.support import backends
from tests.support import tiers

X = np.random.default_rng(0).uniform(size=(6, 4)).astype("float32")
FLOAT64 = backends.tensorflow_only("JAX has to be asked for float64")


class Probe(keras.layers.Layer):
    """Multiplies by a weight, and stores the dtypes of both factors in its last call."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        tensors = x, keras.ops.convert_to_tensor(self.scale)
        self.seen = tuple(keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors)
        return x * self.scale


class Quantised(Probe):
    """A probe that runs with quantised weights."""

    def quantized_call(self, x):
        return self.call(x)


class Subclassed(keras.Model):
    """A model with a model in it, and probes on three levels, one of them inside of a layer."""

    def __init__(self):
        super().__init__()
        self.outer, self.inner, self.deep = Probe(), Probe(), Probe()
        self.part = keras.Sequential([self.inner, keras.layers.TimeDistributed(self.deep)])

    def call(self, x):
        return self.part(self.outer(x)[:, :, None])


def network(policy=None):
    """Convolution, BatchNorm, dropout and two dense layers with weights that are not small."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Reshape((2, 2, 1)),
        keras.layers.Conv2D(3, 2, padding="same", activation="relu", dtype=policy),
        keras.layers.BatchNormalization(dtype=policy),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(5, activation="gelu", dtype=policy),
        keras.layers.Dense(3, dtype=policy),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    rng = np.random.default_rng(2)
    model.set_weights([w + 0.3 * rng.uniform(size=w.shape) for w in model.get_weights()])
    return model


def policies(model):
    return [(layer, layer._dtype_policy) for layer in model._flatten_layers()]


def assert_same(before, after):
    assert len(before) == len(after)
    for (layer, policy), (other, now) in zip(before, after, strict=True):
        assert layer is other and policy is now


@tiers.parametrize("dtype", ["bfloat16", "float16"])
def test_it_computes_what_a_model_with_mixed_policies_computes(dtype):
    model, mixed = network(), network(f"mixed_{dtype}")
    expected, own = mixed(X), model(X)
    with compute_dtype_scope(model, dtype):
        outputs = model(X)
    assert outputs.dtype.name == dtype
    np.testing.assert_array_equal(
        keras.ops.cast(outputs, "float32"), keras.ops.cast(expected, "float32")
    )
    assert np.abs(keras.ops.cast(outputs, "float32") - own).max() > 1e-4
    np.testing.assert_array_equal(model(X), own)
    assert {w.dtype for w in model.weights} <= {"float32", "uint32"}


def test_layers_on_every_level():
    model = Subclassed()
    model(X)
    before = policies(model)
    with compute_dtype_scope(model, "bfloat16"):
        model(X)
        assert current_dtype() == "bfloat16"
    for probe in (model.outer, model.inner, model.deep):
        assert probe.seen == ("bfloat16", "bfloat16")
    assert_same(before, policies(model))
    model(X)
    for probe in (model.outer, model.inner, model.deep):
        assert probe.seen == ("float32", "float32")
    assert current_dtype() is None


@pytest.mark.exhaustive
def test_policies_come_back_after_an_exception():
    model = network()
    before = policies(model)
    with pytest.raises(KeyboardInterrupt), compute_dtype_scope(model, "bfloat16"):
        raise KeyboardInterrupt
    assert_same(before, policies(model))
    assert current_dtype() is None


def test_a_map_of_policies_comes_back_untouched():
    model = Subclassed()
    model(X)
    mapping = keras.dtype_policies.DTypePolicyMap()
    mapping[model.inner.path] = keras.DTypePolicy("float32")
    model.inner._dtype_policy = model.outer._dtype_policy = mapping
    with compute_dtype_scope(model, "bfloat16"):
        model(X)
    assert model.inner.seen == model.outer.seen == ("bfloat16", "bfloat16")
    assert model.inner._dtype_policy is model.outer._dtype_policy is mapping
    assert list(mapping) == [model.inner.path]


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(lambda: Probe(autocast=False), id="autocast=False"),
        pytest.param(lambda: Probe(dtype="float64"), id="float64", marks=FLOAT64),
        pytest.param(lambda: Quantised(dtype="int8_from_float32"), id="quantised"),
    ],
)
def test_layers_that_keep_their_dtype(kept):
    probe, other = kept(), Probe()
    model = keras.Sequential([probe, other])
    model(X)
    own = probe.seen
    with compute_dtype_scope(model, "bfloat16"):
        model(X)
    assert probe.seen == own
    assert other.seen == ("bfloat16", "bfloat16")


def test_inputs_are_normalised_before_they_lose_digits():
    x = np.array([[1001.0], [1002.0], [1003.0]], "float32")
    for layer in (
        keras.layers.Normalization(mean=[1002.0], variance=[1.0]),
        keras.layers.Rescaling(1.0, offset=-1002.0),
    ):
        probe = Probe()
        model = keras.Sequential([keras.Input((1,)), layer, probe])
        with compute_dtype_scope(model, "bfloat16"):
            outputs = model(x)
        assert probe.seen == ("bfloat16", "bfloat16")
        np.testing.assert_array_equal(keras.ops.cast(outputs, "float32"), [[-1.0], [0.0], [1.0]])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_a_model_that_mixes_dtypes_itself_stays_as_it_is(policy):
    low, head = Probe(dtype=policy), Probe()
    model = keras.Sequential([low, head])
    model(X)
    own = low.seen, head.seen
    with compute_dtype_scope(model, "bfloat16"):
        assert current_dtype() is None
        model(X)
    assert (low.seen, head.seen) == own == (own[0], ("float32", "float32"))


def test_integers_stay_integers():
    probe = Probe()
    layers = [keras.layers.Embedding(400, 3), probe]
    model = keras.Sequential([keras.Input((2,), dtype="int32"), *layers])
    tokens = np.array([[299, 300]])
    expected = model.layers[0].get_weights()[0][tokens]
    with compute_dtype_scope(model, "bfloat16"):
        outputs = model(tokens)
    assert probe.seen == ("bfloat16", "bfloat16")
    np.testing.assert_allclose(keras.ops.cast(outputs, "float32"), expected, rtol=2**-8)


def test_normalisations_of_keras_give_what_they_give_under_a_mixed_policy():
    probe = Probe(autocast=False)
    for layer in (
        keras.layers.BatchNormalization(),
        keras.layers.LayerNormalization(),
        keras.layers.GroupNormalization(2),
    ):
        model = keras.Sequential([keras.Input((4,)), layer, probe])
        with compute_dtype_scope(model, "bfloat16"):
            outputs = model(X)
        assert probe.seen == ("bfloat16", "float32")
        mixed = type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
        mixed.build((None, 4))
        np.testing.assert_array_equal(outputs, keras.ops.cast(mixed(X), "float32"))


def test_nothing_changes_without_a_dtype_or_a_model():
    model = network()
    with compute_dtype_scope(model, None):
        assert model(X).dtype.name == "float32"
    with compute_dtype_scope(lambda x: x, "bfloat16"):
        assert current_dtype() is None


def test_nested_scopes():
    model = network()
    before = policies(model)
    with compute_dtype_scope(model, "bfloat16"):
        with compute_dtype_scope(model, None):
            assert model(X).dtype.name == "float32"
        with compute_dtype_scope(model, "float16"):
            assert model(X).dtype.name == "float16"
        assert model(X).dtype.name == "bfloat16"
    assert_same(before, policies(model))


def test_threads_do_not_see_each_other():
    model = network()
    before, seen = policies(model), {}
    arrived, gone = threading.Barrier(2), threading.Event()

    def first():
        with compute_dtype_scope(model, "bfloat16"):
            arrived.wait()
            seen["first"] = model(X).dtype.name
            gone.wait()
            seen["first, alone"] = model(X).dtype.name

    def second():
        seen["outside"] = model(X).dtype.name
        with compute_dtype_scope(model, "float16"):
            arrived.wait()
            seen["second"] = model(X).dtype.name
        seen["outside, after"] = model(X).dtype.name
        gone.set()

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {
        "first": "bfloat16",
        "first, alone": "bfloat16",
        "second": "float16",
        "outside": "float32",
        "outside, after": "float32",
    }
    assert_same(before, policies(model))


class Growing(keras.layers.Layer):
    """Makes a layer with its own policy when it is built, as attention does."""

    def build(self, shape):
        self.made = Probe(dtype=self.dtype_policy)

    def call(self, x):
        return self.made(x)


def test_layers_made_within_have_the_policy_that_they_were_meant_to_have():
    growing = Growing()
    model = keras.Sequential([keras.layers.Dense(4), growing])
    model.layers[0].build((None, 4))
    with compute_dtype_scope(model, "bfloat16"):
        model(X)
    assert growing.made._dtype_policy is growing._dtype_policy
    assert growing.made.scale.dtype == "float32"
    model(X)
    assert growing.made.seen == ("float32", "float32")


def test_layers_made_within_keep_the_dtype_until_the_outer_scope_ends():
    growing = Growing()
    model = keras.Sequential([keras.layers.Dense(4), growing])
    model.layers[0].build((None, 4))
    with compute_dtype_scope(model, "bfloat16"):
        model(X)
        with compute_dtype_scope(model, "float16"):
            model(X)
            assert growing.made.seen == ("float16", "float16")
        model(X)
        assert growing.made.seen == ("bfloat16", "bfloat16")
    assert growing.made._dtype_policy is growing._dtype_policy
    assert growing._dtype_policy.compute_dtype == "float32"
    assert type(growing._dtype_policy) is keras.DTypePolicy
