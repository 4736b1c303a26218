import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import linear_model
from tests.support import refusals
from tests.support import small_models
from tests.support import square_reference
from tests.support import tiers

Square = kr.attacks.Square
CERTAIN = np.array([1.0, 0.0, 0.0], "float32")
SAME_IN_L1 = 0.9 if backends.IS_JAX else 0.95
SHAPE = (10, 10, 2)
_RNG = np.random.default_rng(8)
KERNELS = (_RNG.normal(size=(200, 6)) / 6.0, _RNG.normal(size=(6, 3)))
SEEDS = np.array([[1, 5], [1, 6], [2, -3], [9, 9], [0, 1], [77, 4]], "int32")


def logits(x):
    """Returns the logits of a small network in float64."""
    return np.tanh(np.asarray(x, "float64").reshape(len(x), -1) @ KERNELS[0]) @ KERNELS[1]


def network(x):
    first, second = (kernel.astype("float32") for kernel in KERNELS)
    return keras.ops.tanh(keras.ops.reshape(x, (-1, 200)) @ first) @ second


def images(count=6):
    x = np.random.default_rng(2).beta(0.7, 0.7, size=(count, *SHAPE)).astype("float32")
    return x, np.argmax(logits(x), axis=-1)


def margin(x, label):
    z = logits(x[None])[0]
    return np.max(np.delete(z, label)) - z[label]


def search(attack, x, y, ball, seeds=SEEDS, model=network):
    x = keras.ops.convert_to_tensor(x)
    classifier = models.Classifier(model)

    @backends.traced
    def run(x, seeds):
        return attack.search(kr.attacks.SearchProblem(classifier, x, y, ball, seeds))

    return run(x, seeds[: len(x)])


BALLS = {
    "Linf": (kr.threat_models.Linf, 0.06),
    "L2": (kr.threat_models.L2, 1.0),
    "L1": (kr.threat_models.L1, 6.0),
}


@tiers.parametrize("bounds", [(0.0, 1.0), None])
@tiers.parametrize("norm", BALLS)
@tiers.parametrize(
    "arguments", [{"p_init": 0.8}, {"p_init": 0.2, "rescale_schedule": True}], ids=str
)
def test_is_the_search_of_the_paper(norm, bounds, arguments):
    x, y = images()
    cls, epsilon = BALLS[norm]
    found = search(Square(num_queries=120, **arguments), x, y, cls(epsilon, bounds))
    for i in range(len(x)):
        x_adv, loss, success, queries = square_reference.attack(
            lambda point, i=i: margin(point, y[i]),
            x[i],
            SEEDS[i],
            norm,
            epsilon,
            bounds=bounds,
            num_queries=120,
            **arguments,
        )
        close = np.isclose(found.x_adv[i], x_adv, rtol=2e-5, atol=2e-5)
        # In L1 the projection leaves changes of the size of rounding errors, which a later window
        # enlarges.
        assert np.mean(close) >= (SAME_IN_L1 if norm == "L1" else 1.0)
        assert float(found.loss[i]) == pytest.approx(loss, abs=2e-2 if norm == "L1" else 2e-4)
        assert bool(found.success[i]) == success
        # Two more queries for the labels and the loss of the example itself.
        assert int(found.queries[i]) == queries + 2
    assert 0 < np.sum(found.success) < len(x)


@tiers.parametrize("norm", BALLS)
def test_comes_close_to_the_best_point_of_a_linear_model(norm):
    x, y = linear_model.examples()
    epsilon = linear_model.EPSILON[norm]
    ball = BALLS[norm][0](epsilon)
    # There is no class boundary, so that the search for the largest margin continues to the end.
    bias = np.array([[100.0 if label == k else 0.0 for k in (0, 1)] for label in y], "float32")
    x_adv = search(
        Square(num_queries=2500), x, y, ball, model=lambda x: linear_model.logits(x) + bias
    ).x_adv
    best = linear_model.margin(linear_model.best(x, y, norm, epsilon, (0.0, 1.0)), y)
    start = linear_model.margin(x, y)
    reached = (linear_model.margin(np.asarray(x_adv), y) - start) / (best - start)
    # In Linf windows of one pixel can set every sign; pyramids cannot change single pixels.
    assert reached.min() > {"Linf": 1.0 - 1e-5, "L2": 0.6, "L1": 0.5}[norm]
    assert reached.max() <= 1.0 + 1e-5


@pytest.mark.exhaustive
def test_vectors_and_other_shapes():
    x, y = linear_model.examples()
    for shape, norm in (((12,), "Linf"), ((12,), "L2"), ((3, 4), "L1"), ((1, 3, 2, 2), "Linf")):
        flat, ball = x.reshape(len(x), *shape), BALLS[norm][0](linear_model.EPSILON[norm])
        x_adv = Square(num_queries=200)(linear_model.logits, flat, y, ball)
        gain = linear_model.margin(x_adv, y) - linear_model.margin(x, y)
        assert x_adv.shape == flat.shape and gain.min() > 0.1
        assert np.all(ball.contains(x_adv, flat))


@pytest.mark.exhaustive
def test_a_box_and_a_radius_per_channel():
    x, y = images()
    x = x * np.array([1.5, 1.0], "float32") - np.array([0.5, 0.0], "float32")
    ball = kr.Linf([0.02, 0.05], ([-0.5, 0.0], [1.0, 1.0]))
    x_adv = Square(num_queries=40)(network, x, logits(x).argmax(-1), ball)
    assert np.all(ball.contains(x_adv, x))
    np.testing.assert_allclose(np.abs(x_adv - x).max(axis=(0, 1, 2)), [0.02, 0.05], rtol=1e-5)
    low, high = np.array(ball.bounds[0]), np.array(ball.bounds[1])
    # Every pixel is at a bound of the ball or of the box.
    ends = [np.maximum(x - ball.epsilon, low), np.minimum(x + ball.epsilon, high)]
    nearest = np.minimum(np.abs(x_adv - ends[0]), np.abs(x_adv - ends[1]))
    np.testing.assert_allclose(nearest, 0.0, atol=1e-6)
    l2 = kr.L2(1.0, ([-0.5, 0.0], [1.0, 1.0]))
    x_adv = Square(num_queries=40)(network, x, logits(x).argmax(-1), l2)
    assert np.all(l2.contains(x_adv, x)) and np.abs(x_adv - x).max() > 0.05


@pytest.mark.exhaustive
@pytest.mark.parametrize("norm", BALLS)
def test_one_radius_per_example(norm):
    x, y = images()
    radii = np.linspace(0.5, 1.5, len(x)).astype("float32") * BALLS[norm][1]
    shaped = radii.reshape(-1, 1, 1, 1) if norm == "Linf" else radii
    together = search(Square(num_queries=30), x, y, BALLS[norm][0](shaped))
    for i in (0, 4):
        one, ball = slice(i, i + 1), BALLS[norm][0](float(radii[i]))
        alone = search(Square(num_queries=30), x[one], y[one], ball, SEEDS[one])
        np.testing.assert_allclose(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-5)


@pytest.mark.exhaustive
def test_stops_when_all_are_broken_and_keeps_broken_points():
    calls = []

    def count(x):
        calls.append(len(x))
        return logits(x).astype("float32")

    model = kr.evaluation.BlackBox(count, 3)
    x, y = images()
    y[0] = (y[0] + 1) % 3
    # The search ends when the last example is broken.
    found = Square(num_queries=2000).run(model, x, y, kr.Linf(0.4))
    assert found.success.all() and not found.zero_gradient.any()
    assert found.queries[0] == 2 and len(np.unique(found.queries)) > 2
    # XLA merges two calls at the same point into one.
    assert len(calls) == found.queries.max() - backends.IS_JAX
    np.testing.assert_array_equal(found.x_adv[0], x[0])
    longer = Square(num_queries=4000).run(model, x, y, kr.Linf(0.4))
    np.testing.assert_array_equal(longer.x_adv, found.x_adv)


@pytest.mark.exhaustive
def test_a_model_that_never_errs_gets_all_queries():
    x, y = images()
    ball = kr.Linf(0.1)
    found = Square(num_queries=30).run(lambda x: network(x) * 0.0 + CERTAIN, x, 0 * y, ball)
    assert not found.success.any() and found.queries.tolist() == [32] * 6
    np.testing.assert_array_equal(found.x_adv, x)


def test_non_finite_logits_are_no_success():
    def broken(x):
        return keras.ops.where(x[:, :1, 0, 0] > 0.5, np.nan, network(x))

    x, y = images()
    x[:, 0, 0, 0] = np.linspace(0.4, 0.49, 6)
    y = np.argmax(network(x), axis=-1)
    x_adv = Square(num_queries=50)(broken, x, y, kr.Linf(0.2))
    assert np.all(x_adv[:, 0, 0, 0] <= 0.5)


@pytest.mark.exhaustive
def test_does_not_depend_on_the_batch():
    model = small_models.convolution()
    x, y = small_models.images(model)
    for ball in (kr.Linf(0.05), kr.L2(0.2), kr.threat_models.L1(0.5)):
        together = Square(num_queries=40).run(model, x, y, ball)
        parts = Square(num_queries=40).run(model, x, y, ball, batch_size=2)
        np.testing.assert_allclose(parts.x_adv, together.x_adv, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(parts.queries, together.queries)


@pytest.mark.exhaustive
def test_windows_and_signs_differ_between_examples():
    x = np.full((64, *SHAPE), 0.5, "float32")
    found = Square(num_queries=1).run(network, x, np.argmax(network(x), -1), kr.Linf(1e-4))
    # Of 2^20 possible starts hardly two are the same. An example whose start has a lower loss is
    # returned unchanged.
    changed = found.x_adv[np.any(found.x_adv != x, axis=(1, 2, 3))]
    assert len(changed) > 10
    assert len(np.unique(changed.reshape(len(changed), -1), axis=0)) == len(changed)
    again = Square(num_queries=2).run(network, x, np.argmax(network(x), -1), kr.Linf(1e-4), seed=1)
    assert np.abs(again.x_adv - found.x_adv).max() > 0


@pytest.mark.exhaustive
def test_restarts_break_more():
    x, y = images()
    x, y = np.repeat(x, 8, axis=0), np.repeat(y, 8)
    once = Square(num_queries=3).run(network, x, y, kr.Linf(0.15))
    often = Square(num_queries=3, num_restarts=5).run(network, x, y, kr.Linf(0.15))
    assert np.all(often.success[once.success]) and often.success.sum() > once.success.sum()
    assert often.queries.max() == 25


@pytest.mark.exhaustive
def test_targets():
    x, y = images()
    targets = (y + 1) % 3
    found = Square(num_queries=400, targeted=True).run(network, x, targets, kr.Linf(0.1))
    np.testing.assert_array_equal(logits(found.x_adv).argmax(-1) == targets, found.success)
    assert found.success.mean() > 0.6
    least = Square(num_queries=3, targeted="least_likely").run(network, x, y, kr.Linf(0.004))
    goals = logits(x).argmin(-1)
    losses = [
        margin(a, attack_loss) - margin(b, attack_loss)
        for a, b, attack_loss in zip(least.x_adv, x, goals, strict=True)
    ]
    assert np.all(np.array(losses)[~least.success] <= 0.0)


@pytest.mark.exhaustive
def test_inside_a_compiled_function():
    x, y = images()
    for ball in (kr.Linf(0.004), kr.L2(0.05)):
        attack = Square(num_queries=20)
        compiled = backends.traced(
            lambda x, ball=ball, attack=attack: attack(network, x, y, ball), jit_compile=True
        )
        expected = backends.traced(lambda x, ball=ball, attack=attack: attack(network, x, y, ball))
        np.testing.assert_allclose(compiled(x), expected(x), rtol=0, atol=1e-5)


def test_other_threat_models_are_refused():
    x, y = images()
    with pytest.raises(ValueError, match="supports Linf, L2 and L1. Received: "):
        search(Square(), x, y, kr.threat_models.ThreatModel(0.1))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"num_queries": 0}, "`num_queries` must be an int >= 1. Received: 0"),
        ({"num_restarts": 1.5}, "`num_restarts` must be an int >= 1. Received: 1.5"),
        ({"p_init": 0.0}, r"`p_init` must be in \(0, 1\]. Received: 0.0"),
        ({"p_init": 1.1}, r"`p_init` must be in \(0, 1\]. Received: 1.1"),
        ({"p_init": "half"}, r"`p_init` must be in \(0, 1\]. Received: 'half'"),
        ({"loss": "compiled"}, "`loss` must be one of .*Received: 'compiled'"),
        ({"targeted": 1}, "`targeted` must be one of .*Received: 1"),
        ({"rescale_schedule": "yes"}, "`rescale_schedule` must be one of .*Received: 'yes'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(Square, message, **arguments)
