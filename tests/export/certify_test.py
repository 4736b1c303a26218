import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import keras_robust as kr
from keras_robust.export import warmup_log
from keras_robust.export.certify import lower_bound
from tests.support import refusals
from tests.support import tiers

STDDEV = 0.5
POINTS = np.array([[0.5, 0.5], [0.1, 0.5], [0.9, 0.2]], "float32")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Smoothing of a linear model, for which the share of copies is known."""
    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Rescaling(9.0)])
    smoothed = kr.layers.RandomizedSmoothing(model, STDDEV, num_samples=20)
    smoothed(POINTS)
    path = tmp_path_factory.mktemp("served") / "1"
    kr.export_saved_model(smoothed, path, guard=kr.layers.InputGuard())
    return path, tf.saved_model.load(str(path))


def ask(loaded, x=POINTS, seed=(1, 2), num_samples=5000, alpha=0.01):
    found = loaded.signatures["certify"](
        x=tf.constant(x),
        seed=tf.constant(seed),
        num_samples=tf.constant(num_samples),
        alpha=tf.constant(alpha),
    )
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_lower_bound_equals_clopper_and_pearson(alpha):
    count = np.array([0, 1, 50, 99, 100])
    expected = np.where(count > 0, stats.beta.ppf(alpha, np.maximum(count, 1), 101 - count), 0.0)
    np.testing.assert_allclose(lower_bound(count, 100, alpha), expected, rtol=1e-6)
    big = lower_bound(np.array([100_000]), 100_000, alpha)
    np.testing.assert_allclose(big, alpha ** (1.0 / 100_000), rtol=1e-9)


def test_certificates(served):
    found = ask(served[1])
    np.testing.assert_array_equal(found["label"], [-1, 1, 0])
    # The share of copies is that of a normal variable: the distance from the border over sigma.
    distance = np.abs(POINTS[:, 0] - POINTS[:, 1]) / 2**0.5
    share = stats.norm.cdf(distance / STDDEV)
    assert np.all(np.abs(found["count"] / 5000 - share) < 4 * np.sqrt(share * (1 - share) / 5000))
    lower = stats.beta.ppf(0.01, found["count"], 5001 - found["count"])
    expected = STDDEV * stats.norm.ppf(np.maximum(lower, 0.5))
    np.testing.assert_allclose(found["radius"], expected, atol=1e-5)
    assert np.all(found["radius"][1:] < distance[1:] + 0.01)


def test_the_noise_depends_on_the_seed_and_not_on_the_batch(served):
    first, alone = ask(served[1]), ask(served[1], POINTS[1:2])
    np.testing.assert_array_equal(first["count"][1:2], alone["count"])
    other = ask(served[1], seed=(1, 3))
    assert np.all(first["count"] != other["count"])


def test_arguments_matter(served):
    found = ask(served[1])
    more, surer = ask(served[1], num_samples=9950), ask(served[1], alpha=1e-6)
    assert np.all(more["count"] > 1.5 * found["count"])
    lower = stats.beta.ppf(0.01, more["count"][1], 10_001 - more["count"][1])
    np.testing.assert_allclose(more["radius"][1], STDDEV * stats.norm.ppf(lower), atol=1e-5)
    assert np.all(surer["radius"][1:] < found["radius"][1:])


@tiers.parametrize(
    "wrong",
    [
        {"num_samples": 0},
        {"num_samples": 2**31 - 1},
        {"num_samples": 33_301},
        {"num_samples": 100_001, "x": POINTS[:0]},
        {"alpha": 0.0},
        {"alpha": 0.051},
    ],
)
def test_wrong_arguments(served, wrong):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected num_samples from 1"):
        ask(served[1], **wrong)


@pytest.mark.exhaustive
def test_the_number_of_copies_is_limited_where_it_is_exported(tmp_path):
    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Rescaling(9.0)])
    smoothed = kr.layers.RandomizedSmoothing(model, STDDEV, seed=0)
    loaded = tf.saved_model.load(
        str(
            kr.export_saved_model(
                smoothed, tmp_path / "1", max_samples=1000, guard=kr.layers.InputGuard()
            )
        )
    )
    assert np.all(ask(loaded, POINTS[:2], num_samples=500)["count"] > 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="number of inputs at most 1000"):
        ask(loaded, POINTS[:2], num_samples=501)
    with pytest.raises(ValueError, match="`max_samples` must be .*Received: max_samples=999"):
        kr.export_saved_model(
            smoothed, tmp_path / "2", max_samples=999, guard=kr.layers.InputGuard()
        )


def test_the_guard_stands_in_front(served):
    message, error = r"Expected finite values within \[0.0, 1.0\]", tf.errors.InvalidArgumentError
    with refusals.assert_refused(message, error=error):
        ask(served[1], POINTS + 1.0)


@pytest.mark.exhaustive
def test_random_answers_are_not_compared(served):
    path, _ = served
    warmup_requests = warmup_log.read(path / warmup_log.PLACE)
    kinds = {exchange.signature: bool(exchange.outputs) for exchange in warmup_requests}
    assert kinds == {"serving_default": False, "logits": False, "certify": True}
    replayed = warmup_log.replay(path)
    assert replayed["others_equal"] and replayed["largest_difference"] < 1e-5
    assert (replayed["compared"], replayed["requests"]) == (2, 6)


@pytest.mark.exhaustive
def test_every_process_draws_its_own_noise(served):
    path, loaded = served
    noisy = tf.constant(np.repeat(POINTS[:1], 200, axis=0))
    other = tf.saved_model.load(str(path))
    first, second = (
        one.signatures["serving_default"](x=noisy)["probabilities"].numpy()
        for one in (loaded, other)
    )
    assert np.any(first != second)


@pytest.mark.exhaustive
def test_probabilities_are_the_shares_of_votes(tmp_path):
    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Rescaling(9.0)])
    smoothed = kr.layers.RandomizedSmoothing(model, STDDEV, num_samples=20, seed=0)
    path = kr.export_saved_model(smoothed, tmp_path / "1", guard=kr.layers.InputGuard())
    found = tf.saved_model.load(str(path)).signatures["serving_default"](x=tf.constant(POINTS))
    np.testing.assert_allclose(found["probabilities"], smoothed(POINTS), atol=1e-6)
    assert warmup_log.replay(path)["compared"] == 6
