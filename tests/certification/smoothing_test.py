import keras
import numpy as np
import pytest
from scipy import stats

import keras_robust as kr
from keras_robust.certification import Smoothing
from keras_robust.certification.noisy_votes import ESTIMATION
from keras_robust.certification.noisy_votes import NoisyVotes
from tests.support import refusals
from tests.support import tiers

RNG = np.random.default_rng(0)
KERNEL = np.array([[1.0, -0.5], [-0.4, 1.2], [0.3, 0.2]], "float32")
BIAS = np.array([0.05, -0.1], "float32")
X = RNG.uniform(size=(12, 3)).astype("float32")
SIGMA = 0.5


def linear(x):
    return keras.ops.matmul(x, KERNEL) + BIAS


def distances(x):
    """Returns the class of a linear classifier and the distance to its hyperplane, in float64."""
    w, b = np.diff(KERNEL.astype("float64"), axis=1)[:, 0], np.diff(BIAS.astype("float64"))[0]
    z = x.astype("float64") @ w + b
    return (z > 0).astype("int64"), np.abs(z) / np.linalg.norm(w)


@pytest.mark.exhaustive
def test_a_constant_classifier_through_the_model():
    found = Smoothing(0.25, num_samples=100_000).certify(
        lambda x: keras.ops.stack([0.0 * x[:, 0], 0.0 * x[:, 0] + 1.0], -1),
        X[:1],
        batch_size=50_000,
    )
    assert found.predictions.tolist() == [1]
    assert found.radii[0] == pytest.approx(0.25 * 3.8115, abs=1e-3)


def test_float64_inputs_are_accepted():
    method = Smoothing(0.25, num_samples=200)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.layers[0].set_weights([KERNEL, BIAS])
    np.testing.assert_array_equal(
        method.certify(model, X.astype("float64")).radii, method.certify(model, X).radii
    )


@pytest.mark.exhaustive
def test_a_guard_behind_the_noise_is_refused():
    head = keras.layers.Dense(2)
    for outside, bounds, refused in (
        ("reject", (0.0, 1.0), True),
        ("clip", (0.0, 1.0), False),
        ("reject", None, False),
    ):
        guard = kr.layers.InputGuard(bounds, outside=outside, name="door")
        inner = keras.Sequential([keras.Input((3,)), guard])
        model = keras.Sequential([keras.Input((3,)), inner, head])
        method = Smoothing(0.25, num_samples=100, selection_samples=10)
        if refused:
            with pytest.raises(ValueError, match="guard in front of the smoothing.*'door'"):
                method.certify(model, X)
        else:
            assert method.certify(model, X).radii.shape == (12,)


def test_a_linear_classifier_has_its_distance_up_to_the_slack_of_the_bound():
    """The probability of the class is `Phi(distance / sigma)`, so the radius is the distance."""
    n, alpha = 20_000, 0.001
    found = Smoothing(SIGMA, num_samples=n, alpha=alpha).certify(linear, X, batch_size=5000)
    classes, exact = distances(X)
    p = stats.norm.cdf(exact / SIGMA)
    # Count and bound are each within 4 standard deviations, except once in 10,000 runs.
    least = np.maximum(p - 8.0 * np.sqrt(p * (1.0 - p) / n) - 8.0 / n, 0.5)
    assert np.all(found.radii <= exact)
    assert np.all(found.radii >= SIGMA * stats.norm.ppf(least) - 1e-9)
    sure = found.predictions >= 0
    assert sure.sum() >= 10
    np.testing.assert_array_equal(found.predictions[sure], classes[sure])
    np.testing.assert_array_equal(found.radii > 0, sure)


def test_a_tie_abstains():
    x = np.zeros((1, 3), "float32")
    found = Smoothing(1.0, num_samples=1000).certify(lambda x: linear(x) - BIAS, x)
    assert (found.predictions[0], found.radii[0]) == (-1, 0.0)


@pytest.mark.exhaustive
def test_the_level_holds_on_many_draws():
    """At level 0.2 about one in five bounds is above the true probability."""
    x = np.repeat(X[:1], 300, axis=0)
    _, exact = distances(x)
    found = Smoothing(SIGMA, num_samples=200, alpha=0.2).certify(linear, x)
    above = np.mean(found.radii > exact)
    # Allow four standard deviations of the mean of 300; discrete bounds may err less often.
    assert 0.08 < above < 0.2 + 4 * np.sqrt(0.2 * 0.8 / 300)


def test_stopping_early_gives_the_answer_of_all_copies(monkeypatch):
    """Three classes share the plane; the inputs move from their corner into the first."""
    angles = 2.0 * np.pi * np.arange(3) / 3.0
    corners = np.stack([np.cos(angles), np.sin(angles)]).astype("float32")
    x = np.outer(np.linspace(0.0, 2.0 * SIGMA, 10), corners[:, 0]).astype("float32")

    def three(x):
        return keras.ops.matmul(x, corners)

    run, stops, cast, largest = NoisyVotes.run, True, None, None

    def recorded(self, rows, is_decided, batch_size=None):
        nonlocal cast
        run(self, rows, is_decided if stops else lambda row: False, batch_size)
        cast = np.array([self.cast[row, ESTIMATION] for row in range(10)])

    monkeypatch.setattr(NoisyVotes, "run", recorded)
    n = 3000
    for radius in (None, 0.2, 0.4):
        method = Smoothing(SIGMA, num_samples=n, alpha=0.01, radius=radius)
        stops = False
        whole = method.certify(three, x, batch_size=100, seed=2)
        assert np.all(cast == n)
        stops = True
        found = method.certify(three, x, batch_size=100, seed=2)
        np.testing.assert_array_equal(found.predictions, whole.predictions)
        np.testing.assert_array_equal(found.radii, whole.radii)
        holds = found.radii > 0.0
        assert 0 < holds.sum() < 10
        assert np.any(cast[~holds] < n)
        if radius is None:
            largest = found.radii
            assert np.all(cast[holds] == n)
        else:
            np.testing.assert_array_equal(found.radii, np.where(largest >= radius, radius, 0.0))
            assert np.any(cast[holds] < n)


def test_the_largest_radius_is_decided_and_a_larger_one_refused():
    def constant(x):
        return keras.ops.stack([x[:, 0] ** 2, -keras.ops.ones_like(x[:, 0])], -1)

    found = Smoothing(SIGMA, num_samples=1000, radius=1.23).certify(constant, X[:2])
    assert found.radii.tolist() == [1.23, 1.23]
    method = Smoothing(SIGMA, num_samples=1000, radius=1.5)
    with pytest.raises(ValueError, match="at most 1.232, .*radius=1.5 with num_samples=1000"):
        method.certify(linear, X)


def test_the_dtype_gives_the_votes_of_a_network_of_that_dtype():
    def votes(policy, dtype):
        keras.utils.set_random_seed(0)
        dense = [keras.layers.Dense(n, "tanh", dtype=policy) for n in (32, 3)]
        model = keras.Sequential([keras.Input((3,)), *dense])
        noisy = NoisyVotes(
            kr.models.Classifier(model), X, stddev=SIGMA, limits=(100, 3000), seed=1, dtype=dtype
        )
        noisy.run(range(12), lambda row: False)
        method = Smoothing(SIGMA, num_samples=3000, dtype=dtype)
        return np.array([noisy.votes[row, ESTIMATION] for row in range(12)]), method.certify(
            model, X, seed=1
        )

    (low, found), (expected, other) = (
        votes(None, "bfloat16"),
        votes("mixed_bfloat16", None),
    )
    np.testing.assert_array_equal(low, expected)
    np.testing.assert_array_equal(found.radii, other.radii)
    whole, _ = votes(None, None)
    assert 0 < np.abs(whole - low).sum() < 0.02 * whole.sum()
    # A function has no layers whose dtype could change.
    method = Smoothing(SIGMA, num_samples=100, dtype="bfloat16")
    with pytest.raises(ValueError, match="`dtype` needs a keras.Model.*dtype='bfloat16' for"):
        method.certify(linear, X)


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch_size", [0, -5, 1.5, True])
def test_a_batch_size_that_is_no_count_is_refused(batch_size):
    with refusals.assert_refused(f"`batch_size` must be an int >= 1. Received: {batch_size}"):
        Smoothing(SIGMA).certify(linear, X, batch_size=batch_size)


@tiers.parametrize("batch_size", [1, 350, 10_000])
def test_the_seed_changes_the_counts_and_the_batch_size_does_not(batch_size):
    method = Smoothing(SIGMA, num_samples=1050, selection_samples=130)
    found = method.certify(linear, X[:4], batch_size=batch_size, seed=3)
    expected = method.certify(linear, X[:4], seed=3)
    np.testing.assert_array_equal(found.radii, expected.radii)
    assert np.any(method.certify(linear, X[:4], seed=4).radii != expected.radii)


def test_every_sample_counts_once():
    """With a constant classifier the radius depends only on the number of copies."""
    for n in (1, 99, 100, 101, 1050):
        found = Smoothing(1.0, num_samples=n, alpha=0.4).certify(
            lambda x: keras.ops.stack([x[:, 0] ** 2, -keras.ops.ones_like(x[:, 0])], -1), X[:1]
        )
        expected = max(0.0, stats.norm.ppf(0.4 ** (1.0 / n)))
        assert found.radii[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.exhaustive
def test_selection_chooses_the_class():
    # One copy often selects the less frequent class, which then has no certificate.
    def shifted(x):
        return linear(x) - BIAS + np.array([0.0, 0.5], "float32")

    x = np.zeros((30, 3), "float32")
    few, many = (
        Smoothing(SIGMA, num_samples=500, selection_samples=n).certify(shifted, x) for n in (1, 100)
    )
    assert set(many.predictions) == {1}
    assert set(few.predictions) == {1, -1}


def test_non_finite_logits_vote_for_no_class():
    def broken(x):
        z = linear(x)
        one = z * 0.0 + np.array([1.0, 0.0], "float32")
        return keras.ops.where(keras.ops.expand_dims(x[:, 0] > 0.0, -1), z * np.nan, one)

    x = np.zeros((1, 3), "float32")
    found = Smoothing(1.0, num_samples=1000).certify(broken, x)
    assert found.predictions[0] == -1


def test_the_layer_knows_its_noise():
    head = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), head])
    head.set_weights([KERNEL, BIAS])
    smoothed = kr.layers.RandomizedSmoothing(model, noise_stddev=SIGMA, num_samples=3)
    found = Smoothing(num_samples=500).certify(smoothed, X[:3])
    np.testing.assert_array_equal(
        found.radii, Smoothing(SIGMA, num_samples=500).certify(model, X[:3]).radii
    )
    with pytest.raises(ValueError, match="its own noise.*noise_stddev=0.1 .*noise_stddev=0.5"):
        Smoothing(0.1).certify(smoothed, X)
    with pytest.raises(ValueError, match="`noise_stddev` is required.*Received: noise_stddev=None"):
        Smoothing().certify(model, X)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_stddev", 0.0),
        ("noise_stddev", np.inf),
        ("noise_stddev", "much"),
        ("alpha", 0.0),
        ("alpha", 1.0),
        ("num_samples", 0),
        ("num_samples", 1e5),
        ("selection_samples", True),
        ("radius", 0.0),
        ("radius", "far"),
        ("dtype", "float64"),
    ],
)
def test_wrong_arguments(name, value):
    refusals.assert_argument_refused(
        Smoothing, f"Argument `{name}` must be .*Received: {name}=", **{name: value}
    )


def test_config_round_trip():
    method = Smoothing(
        0.25, num_samples=7, selection_samples=3, alpha=0.01, radius="1/8", dtype="bfloat16"
    )
    again = Smoothing.from_config(method.get_config())
    assert repr(again) == repr(method)
    assert "noise_stddev=0.25, num_samples=7, selection_samples=3, alpha=0.01" in repr(again)
    assert "radius=0.125, dtype='bfloat16'" in repr(again)
    assert again.get_config()["alpha"] == 0.01


def test_the_report_has_the_noise_of_the_model():
    base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(5.0)])
    smoothed = kr.layers.RandomizedSmoothing(base, "1/5", num_samples=5)
    data = np.array([[0.9, 0.1]], "float32"), np.array([0])
    found = kr.certify(smoothed, data, num_samples=200)
    assert found.method["config"]["noise_stddev"] == 0.2
    given = kr.certification.Smoothing("1/4", num_samples=200)
    assert given.resolve(base) is given
    assert given.noise_stddev == 0.25


def test_noise_in_other_units_than_the_inputs_warns():
    x = np.array([[250.0, 3.0]], "float32")
    message = "noise_stddev=0.25 and inputs over a range of 247"
    with refusals.assert_warned_once(message):
        kr.certification.Smoothing(0.25, num_samples=200).certify(lambda x: x, x)
