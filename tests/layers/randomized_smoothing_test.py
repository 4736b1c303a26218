import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from scipy import stats

import keras_robust as kr
from keras_robust import layers
from tests.support import backends
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

X, Y = numpy_reference.examples()
KERNEL = np.array([[2.0, -1.0], [-1.0, 1.5]], "float32")


def linear_model(**arguments):
    head = keras.layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((2,)), head], **arguments)
    head.set_weights([KERNEL])
    return model


def smoothed(**arguments):
    return layers.RandomizedSmoothing(
        numpy_reference.keras_model(), **{"noise_stddev": 0.3, "num_samples": 20, **arguments}
    )


@pytest.mark.exhaustive
def test_shares_are_those_of_the_normal_distribution():
    x = np.array([[0.2, 0.3], [0.5, 0.4], [0.1, 0.9]], "float32")
    gap = x @ (KERNEL[:, 0] - KERNEL[:, 1]) / np.linalg.norm(KERNEL[:, 0] - KERNEL[:, 1])
    expected = stats.norm.cdf(gap / 0.4)
    layer = layers.RandomizedSmoothing(linear_model(), noise_stddev=0.4, num_samples=2000)
    found = layer.predict(x, verbose=0)
    # Four standard deviations of a share among 2,000.
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=0.045)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-6)
    assert found.dtype == "float32"


def test_votes_are_counts():
    found = smoothed(num_samples=12, noise_stddev=1.0).predict(X, verbose=0)
    np.testing.assert_allclose(12 * found, np.rint(12 * found), atol=1e-5)
    assert len(np.unique(np.rint(12 * found))) > 2


@pytest.mark.exhaustive
def test_one_copy_and_many():
    for count in (1, 2, 25):
        found = np.asarray(smoothed(num_samples=count)(X))
        np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-6)
    assert set(np.unique(smoothed(num_samples=1)(X))) == {0.0, 1.0}


def test_noise_is_fresh_at_every_call_and_for_every_row():
    layer = smoothed(noise_stddev=2.0)
    same = np.repeat(X[:1], 8, axis=0)
    first, second = np.asarray(layer(same)), np.asarray(layer(same))
    assert np.any(first != second)
    assert len(np.unique(first, axis=0)) > 1
    predict = kr.backend.compile_function(layer)
    assert np.any(np.asarray(predict(same)) != np.asarray(predict(same)))


@pytest.mark.exhaustive
def test_with_a_seed_answers_are_the_same_in_any_batch():
    layer, twin = (smoothed(noise_stddev=2.0, seed=5) for _ in range(2))
    found = np.asarray(layer(X))
    np.testing.assert_array_equal(layer(X), found)
    np.testing.assert_array_equal(twin(X), found)
    np.testing.assert_array_equal(layer.predict(X, verbose=0, batch_size=2), found)
    np.testing.assert_array_equal(np.concatenate([layer(X[i : i + 1]) for i in range(5)]), found)
    assert np.any(np.asarray(smoothed(noise_stddev=2.0, seed=6)(X)) != found)


@pytest.mark.exhaustive
def test_more_noise_gives_flatter_votes():
    little, much = (np.asarray(smoothed(noise_stddev=size, seed=0)(X)) for size in (0.01, 5.0))
    np.testing.assert_array_equal(np.argmax(little, -1), Y)
    assert little.max(-1).mean() > much.max(-1).mean() + 0.1


def test_decides_as_the_binomial_test_does():
    layer = layers.RandomizedSmoothing(linear_model(), noise_stddev=0.5, num_samples=40)
    votes = np.array([40, 35, 31, 30, 29, 28, 20, 0, 9]) / 40.0
    counts = np.rint(40 * votes).astype("int32")
    layer._count = lambda x: (keras.ops.stack([counts, 40 - counts], -1), None)
    x = np.zeros((len(votes), 2), "float32")
    found = layer.decide(x, alpha=0.01, batch_size=100)
    for share, decision in zip(votes, found, strict=True):
        p_value = stats.binomtest(round(40 * share), 40, 0.5).pvalue
        assert decision == (int(share < 0.5) if p_value <= 0.01 else -1)
    assert -1 in found and 0 in found and 1 in found
    with pytest.raises(ValueError, match="`alpha` must be between 0 and 1. Received: alpha=0"):
        layer.decide(x, alpha=0.0)


def test_decisions_count_in_integers():
    layer = layers.RandomizedSmoothing(linear_model(), num_samples=10**7)
    half = 5 * 10**6
    # The test detects one more copy, which sums in float32 would lose.
    low = int(stats.binom.isf(0.0005, 10**7, 0.5))
    rows = [[half, half], [low, 10**7 - low], [low + 1, 10**7 - low - 1]]
    layer._count = lambda x: (keras.ops.convert_to_tensor(rows, "int32"), None)
    p_values = [stats.binomtest(row[0], 10**7, 0.5).pvalue for row in rows]
    assert [p_value <= 0.001 for p_value in p_values] == [False, False, True]
    np.testing.assert_array_equal(layer.decide(np.zeros((3, 2), "float32")), [-1, -1, 0])


@pytest.mark.exhaustive
def test_copies_with_nan_logits_do_not_vote():
    tensor = keras.Input((2,))
    broken = keras.layers.Lambda(lambda x: keras.ops.where(x[:, :1] < 0.3, np.nan, 1.0) * x)(tensor)
    layer = layers.RandomizedSmoothing(
        keras.Model(tensor, broken), noise_stddev=0.1, num_samples=100, seed=0
    )
    x = np.array([[0.3, 0.9], [0.9, 0.1], [-9.0, 0.0]], "float32")
    found = np.asarray(layer(x))
    noise = [kr.backend.normal((1, 2), kr.backend.fold_in([0, 0], k)) for k in range(100)]
    copies = x[:, None] + 0.1 * np.concatenate(noise)
    counted = copies[..., 0] >= 0.3
    expected = [np.mean(counted & (copies.argmax(-1) == label), axis=-1) for label in (0, 1)]
    np.testing.assert_allclose(found[:2], np.stack(expected, -1)[:2], atol=1e-6)
    assert 0.3 < found[0].sum() < 0.7 and np.isnan(found[2]).all()
    np.testing.assert_array_equal(layer.decide(x), [1, 0, -1])
    slope = gradients.of(lambda inputs: layer(inputs)[0, 0], x[1:2])[1]
    assert np.isfinite(slope).all()


def test_smoothing_of_a_built_model_is_built():
    assert smoothed().built
    assert not layers.RandomizedSmoothing(keras.Sequential([keras.layers.Dense(2)])).built


@pytest.mark.exhaustive
def test_seeds_from_elsewhere():
    layer, seed = smoothed(noise_stddev=2.0), keras.ops.convert_to_tensor([5, 0])
    with layer.seeds_from(lambda: seed):
        found = [np.asarray(layer(X[:1])) for _ in range(2)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], smoothed(noise_stddev=2.0, seed=5)(X[:1]))
    many = np.repeat(X[:1], 20, axis=0)
    assert np.any(np.asarray(layer(many)) != np.asarray(layer(many)))


def test_the_gradient_is_that_of_the_mean_probabilities():
    layer = smoothed(num_samples=15, seed=2)
    classifier = layer.model
    noises = [
        kr.backend.normal((1, 6), kr.backend.fold_in(keras.ops.convert_to_tensor([2, 0]), k))
        for k in range(15)
    ]
    x, target = keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor([[1.0, -2.0, 0.5]])

    def mean(x):
        return sum(keras.ops.softmax(classifier(x + 0.3 * noise)) for noise in noises) / 15

    def log_mean(x):
        return keras.ops.sum(keras.ops.one_hot(Y, 3) * keras.ops.log(mean(x)), axis=-1)

    def loss(x):
        return kr.losses.cross_entropy(Y, kr.models.Classifier(layer).logits(x))

    slope, expected = (gradients.of(function, x, target)[1] for function in (layer, mean))
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)
    # The cross-entropy also has a gradient, although the votes are 0 and 1.
    slope = gradients.of(loss, x)[1]
    assert np.all(np.linalg.norm(slope, axis=-1) > 0)
    assert np.sum(np.asarray(slope) * -np.asarray(gradients.of(log_mean, x)[1])) > 0


@pytest.mark.exhaustive
def test_attacks_see_through_it():
    layer = smoothed(num_samples=10, noise_stddev=0.05)
    attack, ball = kr.attacks.PGD(num_steps=6, random_start=False), kr.Linf(0.4)
    found = attack(layer, X, Y, ball)
    assert np.mean(np.argmax(layer(found), -1) == Y) <= 0.4
    assert np.mean(np.any(found != X, axis=-1)) >= 0.8


def test_training_mode_is_the_model_on_one_noisy_copy():
    layer = smoothed(noise_stddev=0.5)
    layer.compile("sgd", "sparse_categorical_crossentropy")
    seed = layer.seed_generator.state.value * 1
    found = layer(X, training=True)
    noise = kr.backend.normal(X.shape, seed)
    z = numpy_reference.logits(np.asarray(X + 0.5 * noise, "float64"))
    np.testing.assert_allclose(found, special.softmax(z, -1), rtol=1e-4, atol=1e-6)
    again = layer(X, training=True)
    assert np.any(np.asarray(again) != np.asarray(found))


@pytest.mark.exhaustive
def test_fit_trains_the_model_within():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(200, 2)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int32")
    base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    layer = layers.RandomizedSmoothing(base, noise_stddev=0.1, num_samples=20)
    layer.compile(
        keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    layer.fit(x, y, epochs=5, verbose=0)
    assert layer.evaluate(x, y, verbose=0)[1] > 0.9


@tiers.parametrize("seed", [4, None])
def test_file_round_trip(tmp_path, seed):
    layer = smoothed(seed=seed)
    layer(X)
    layer.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    assert revived.get_config()["noise_stddev"] == 0.3
    if seed is not None:
        np.testing.assert_array_equal(revived(X), layer(X))
    for one, other in zip(revived.model.weights, layer.model.weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.exhaustive
@tiers.parametrize("seed", [4, None])
def test_saved_model_takes_any_batch(tmp_path, seed):
    layer = smoothed(seed=seed, noise_stddev=2.0)
    layer(X)
    layer.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    calls = [np.asarray(served.serve(keras.ops.convert_to_tensor(X))) for _ in range(2)]
    assert served.serve(keras.ops.convert_to_tensor(X[:1])).shape == (1, 3)
    if seed is None:
        assert np.any(calls[0] != calls[1])
    else:
        np.testing.assert_allclose(calls[0], layer(X), atol=1e-6)
        np.testing.assert_array_equal(*calls)
    kinds = {n.op for n in served.signatures["serving_default"].graph.as_graph_def().node}
    assert not {kind for kind in kinds if "PyFunc" in kind}


@pytest.mark.exhaustive
def test_inside_a_functional_model():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, smoothed(seed=1)(inputs))
    assert model.output_shape == (None, 3)
    np.testing.assert_allclose(model.predict(X, verbose=0), smoothed(seed=1)(X), atol=1e-6)


@pytest.mark.exhaustive
def test_xla():
    layer = smoothed(num_samples=200, seed=1)
    found = backends.traced(layer, True)(keras.ops.convert_to_tensor(X))
    # XLA draws other numbers from the same seed.
    np.testing.assert_allclose(found, layer(X), atol=0.16)


@pytest.mark.exhaustive
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_noise_and_votes_in_float32(policy):
    keras.config.set_dtype_policy(policy)
    try:
        layer = smoothed(num_samples=300, seed=1)
    finally:
        keras.config.set_dtype_policy("float32")
    found = layer(X)
    assert found.dtype == "float32"
    assert layer.model.compute_dtype in policy
    np.testing.assert_allclose(found, smoothed(num_samples=300, seed=1)(X), atol=0.03)


@pytest.mark.exhaustive
def test_a_sigmoid_counts_as_two_classes_and_a_softmax_as_logits():
    head = keras.layers.Dense(1, activation="sigmoid", use_bias=False)
    binary = keras.Sequential([keras.Input((2,)), head])
    head.set_weights([KERNEL[:, 1:] - KERNEL[:, :1]])
    arguments = {"noise_stddev": 0.4, "num_samples": 30, "seed": 0}
    expected = np.asarray(layers.RandomizedSmoothing(linear_model(), **arguments)(X[:, :2]))
    found = layers.RandomizedSmoothing(binary, **arguments)(X[:, :2])
    np.testing.assert_array_equal(found, expected)
    probabilities = keras.Sequential([linear_model(), keras.layers.Softmax()])
    found = layers.RandomizedSmoothing(probabilities, **arguments)(X[:, :2])
    np.testing.assert_array_equal(found, expected)


def test_batch_statistics_stay_and_dropout_is_off():
    base = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.9, seed=0),
            keras.layers.Dense(3),
        ]
    )
    layer = layers.RandomizedSmoothing(base, num_samples=5, seed=0)
    before = [np.array(weight) for weight in base.weights]
    np.testing.assert_array_equal(layer(X), layer(X))
    for old, new in zip(before, base.weights, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "arguments",
    [
        {"noise_stddev": 0.0},
        {"noise_stddev": "much"},
        {"num_samples": 0},
        {"seed": -1},
        {"seed": 1.5},
        {"model": len},
    ],
)
def test_wrong_arguments(arguments):
    (name,) = arguments
    refusals.assert_argument_refused(
        layers.RandomizedSmoothing,
        f"Argument `{name}` must be .*Received: {name}=",
        **{"model": linear_model(), **arguments},
    )
