import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from tests.support import backends
from tests.support import black_box
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

HopSkipJump = kr.attacks.HopSkipJump
ANYWHERE = {
    norm: getattr(kr.threat_models, norm)(0.5).with_epsilon(np.inf) for norm in ("L2", "Linf")
}
every_norm = tiers.parametrize("norm", ANYWHERE)
SEEDS = np.array([[3, 4], [3, 8], [7, 1]], "int32")


def wrong(x, y):
    return linear_model.margin(x[None], y[None])[0] > 0


def size(delta, norm):
    return np.abs(delta).max() if norm == "Linf" else np.linalg.norm(delta)


def halved(path, y, count):
    """Returns a point just behind the boundary, by bisection of a path in float64."""
    low, high = 0.0, 1.0
    for _ in range(count):
        middle = (low + high) / 2
        low, high = (low, middle) if wrong(path(middle), y) else (middle, high)
    return path(high)


def to_boundary(x, point, y, norm):
    """Returns the end point of a step; with 12 coordinates there are 10 bisection steps."""
    reach = np.abs(point - x).max()
    if norm == "Linf":
        return halved(lambda s: np.clip(point, x - s * reach, x + s * reach), y, 10)
    return halved(lambda s: x + s * (point - x), y, 10)


def reference(x, y, norm, draws, start, num_steps, samples):
    """Returns the result of Chen et al. for one example in float64, from given random numbers."""
    nearest = point = to_boundary(x, start, y, norm)
    jump = size(start - x, norm)
    for t in range(1, num_steps + 1):
        radius = 0.1 if t == 1 else jump / x.size
        u = np.concatenate([draws.pop(0) for _ in range(samples[t - 1])])
        points = np.clip(point + radius * u, 0.0, 1.0)
        u = (points - point) / radius
        phi = np.array([1.0 if wrong(one, y) else -1.0 for one in points])
        mean = phi.mean() if abs(phi.mean()) < 1.0 else 0.0
        g = np.tensordot(phi - mean, u, axes=1)
        update = np.sign(g) if norm == "Linf" else g / np.linalg.norm(g)
        length = size(point - x, norm) / np.sqrt(t)
        while not wrong(np.clip(point + length * update, 0.0, 1.0), y):
            length /= 2
        moved = np.clip(point + length * update, 0.0, 1.0)
        jump, point = size(moved - x, norm), to_boundary(x, moved, y, norm)
        nearest = min(nearest, point, key=lambda one: size(one - x, norm))
    return nearest


def unit_noise(norm, samples, number):
    """Returns the random directions that the attack draws, `(batch_size, samples, ...)`."""
    shape, seeds = (3, samples, *linear_model.SHAPE), SEEDS + np.array([number, 0], "int32")
    if norm == "Linf":
        noise = np.asarray(backend.uniform(shape, seeds, minval=-1.0, maxval=1.0), "float64")
    else:
        noise = np.asarray(backend.normal(shape, seeds), "float64")
    return noise / np.sqrt(np.square(noise).sum((2, 3, 4), keepdims=True))


@every_norm
def test_is_the_algorithm_of_the_paper(norm):
    x, y = linear_model.examples(3)
    attack = HopSkipJump(num_steps=3, initial_samples=30, num_starts=20, samples_per_pass=16)
    # 30, 42 and 51 samples in passes of 16.
    passes = (2, 3, 4)
    problem = kr.attacks.SearchProblem(
        models.Classifier(linear_model.logits),
        keras.ops.convert_to_tensor(x),
        y,
        ANYWHERE[norm],
        SEEDS,
    )
    found = attack.nearest(problem)
    draws = [unit_noise(norm, 16, 20 + number) for number in range(sum(passes))]
    starts = [np.asarray(backend.uniform(x.shape, SEEDS + np.array([i, 0]))) for i in range(20)]
    for i in range(3):
        clean, drawn = x[i].astype("float64"), (one[i].astype("float64") for one in starts)
        first = next(one for one in drawn if wrong(one, y[i]))
        start = halved(lambda s, a=clean, b=first: a + s * (b - a), y[i], 10)
        own = [draw[i] for draw in draws]
        expected = reference(clean, y[i], norm, own, start, 3, passes)
        np.testing.assert_allclose(found.x_adv[i], expected, rtol=0, atol=3e-3)
        assert float(found.loss[i]) == pytest.approx(-size(expected - clean, norm), rel=1e-2)
        assert found.success[i]


@every_norm
def test_finds_the_distance_to_the_boundary_of_a_linear_model(norm):
    x, y = linear_model.examples()
    expected = black_box.distances(x, y, norm)
    found = HopSkipJump(num_steps=25).run(linear_model.logits, x, y, ANYWHERE[norm])
    ratio = -found.loss / expected
    assert found.success.all() and ratio.min() > 1 - 1e-5
    # In L2 the corners of the box limit the directions.
    assert ratio.max() < (1.03 if norm == "L2" else 1.005)


@pytest.mark.exhaustive
@every_norm
def test_more_steps_lead_nearer(norm):
    x, y = linear_model.examples()
    steps = (1, 3, 12)
    distances = [
        -HopSkipJump(num_steps=count).run(linear_model.logits, x, y, ANYWHERE[norm]).loss
        for count in steps
    ]
    # The way back to the boundary halves the distance 12 times, and ends anywhere below that.
    assert np.all(np.diff(distances, axis=0) <= 2.0**-12 * np.max(distances))
    # Some are at the nearest mistake after the first step already.
    assert np.mean(distances[-1]) < 0.95 * np.mean(distances[0])


@pytest.mark.exhaustive
@pytest.mark.parametrize("attack", [HopSkipJump(num_steps=3), kr.attacks.Boundary(num_steps=300)])
def test_restarts_lead_to_the_nearest_of_several_mistakes(attack):
    # One class has near mistakes, another one has far mistakes, and most noise leads to the latter.
    def model(x):
        zeros = keras.ops.zeros_like(x[:, 0])
        return keras.ops.stack([zeros, 0.1 - x[:, 0], x[:, 0] - 0.6], axis=-1)

    x, y = np.tile(np.array([[0.2, 0.5]], "float32"), (8, 1)), np.zeros(8, int)
    once = -attack.run(model, x, y, ANYWHERE["L2"]).loss
    often = -attack.clone(num_restarts=30).run(model, x, y, ANYWHERE["L2"]).loss
    assert once.max() >= 0.4 and np.all(often <= once)
    assert 0.1 < often.min() and often.max() < 0.2


@pytest.mark.exhaustive
@every_norm
@pytest.mark.usefixtures("search_alone")  # `to_boundary` needs the lead of the logits.
def test_uses_only_the_predicted_class_and_no_gradient(norm):
    x, y = linear_model.examples()
    rng = np.random.default_rng(0)

    def changed(x):
        # Positive factors and increasing functions do not change the argmax.
        return np.exp(0.1 * black_box.linear(x) * rng.uniform(0.5, 2.0, (len(x), 1)))

    def classes(x):
        return np.eye(2)[black_box.linear(x).argmax(-1)]

    attack = HopSkipJump(num_steps=4)
    found = [
        attack.run(black_box.BlackBox(function), x, y, ANYWHERE[norm])
        for function in (black_box.linear, changed, classes)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(other.x_adv, found[0].x_adv)
    assert found[0].success.all() and not found[0].zero_gradient.any()


@pytest.mark.exhaustive
@every_norm
def test_an_example_does_not_depend_on_the_rest_of_the_batch(norm):
    # A single norm over the batch would shorten all steps.
    x, y = numpy_reference.examples(4)
    model, attack = numpy_reference.keras_model(), HopSkipJump(num_steps=5)
    together = attack.run(model, x, y, ANYWHERE[norm])
    for i in range(4):
        alone = attack.run(model, x, y, ANYWHERE[norm], rows=[i])
        np.testing.assert_allclose(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-3)
        assert alone.loss[0] == pytest.approx(together.loss[i], rel=0.02)


@pytest.mark.exhaustive
def test_queries_count_the_model_evaluations():
    x, y = linear_model.examples(3)
    model = black_box.BlackBox(black_box.linear)
    attack = HopSkipJump(num_steps=6, initial_samples=30, max_samples=50, samples_per_pass=20)
    found = attack.run(model, x, y, kr.L2(0.3), batch_size=1)
    # XLA merges four calls at the same point into one.
    assert model.asked == found.queries.sum() - 3 * backends.IS_JAX * len(x)
    # 30, 42 and then always 50 samples, in whole passes.
    samples = 40 + 5 * 60
    # Draws, bisection steps and halvings of the steps are added.
    assert np.all(found.queries > samples + 7 * 10) and np.all(found.queries < samples + 200)
    together = attack.run(model, x, y, kr.L2(0.3))
    np.testing.assert_array_equal(together.queries, found.queries)


@pytest.mark.exhaustive
def test_the_radius_of_the_samples_is_gamma():
    x, y = linear_model.examples()
    found = [
        HopSkipJump(num_steps=8, gamma=gamma).run(linear_model.logits, x, y, ANYWHERE["L2"])
        for gamma in (0.01, 1.0, 12.0)
    ]
    assert np.abs(found[0].x_adv - found[1].x_adv).max() > 1e-3
    # Samples as far away as the example itself give a poor estimate of the direction.
    assert found[2].loss.mean() < found[1].loss.mean()


@pytest.mark.exhaustive
@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_without_a_start_the_example_is_unchanged(norm):
    x, y = linear_model.examples(3)
    model = black_box.BlackBox(lambda x: np.tile([[1.0, 0.0]], (len(x), 1)))
    ball = getattr(kr.threat_models, norm)(0.3)
    found = HopSkipJump(num_starts=9).run(model, x, np.array([0, 0, 1]), ball)
    np.testing.assert_array_equal(found.x_adv, x)
    assert found.success.tolist() == [False, False, True]
    assert found.queries[:2].tolist() == [13, 13]


@pytest.mark.exhaustive
def test_the_nearest_mistake_is_moved_into_the_ball():
    x, y = linear_model.examples()
    distances = black_box.distances(x, y, "L2")
    epsilon = np.median(distances)
    found = HopSkipJump(num_steps=12).run(linear_model.logits, x, y, kr.L2(epsilon))
    reached = np.linalg.norm((found.x_adv - x).reshape(len(x), -1), axis=-1)
    assert np.all(reached <= epsilon + 1e-5)
    np.testing.assert_array_equal(found.success, -found.loss <= epsilon)
    assert 0 < found.success.sum() < len(x)


@pytest.mark.exhaustive
def test_bounds_per_channel():
    x, y = linear_model.examples()
    bounds = (np.array([-0.5, 0.0], "float32"), np.array([1.0, 1.5], "float32"))
    found = HopSkipJump(num_steps=10).run(
        linear_model.logits, x, y, kr.Linf(0.4, bounds).with_epsilon(np.inf)
    )
    expected = black_box.distances(x, y, "Linf", tuple(np.tile(bound, 6) for bound in bounds))
    np.testing.assert_allclose(-found.loss, expected, rtol=0.04 if backends.IS_JAX else 0.02)


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_runs_inside_a_train_step(jit_compile):
    x, y = linear_model.examples(4)
    head = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input(linear_model.SHAPE), keras.layers.Flatten(), head])
    head.set_weights([linear_model.WEIGHTS, linear_model.BIAS])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"], jit_compile=jit_compile)
    attack = HopSkipJump(num_steps=4, initial_samples=40)
    robust = kr.AdvTrain(kr.L2(2.0), attack=attack, warmup=0)
    history = model.fit(x, y, batch_size=4, callbacks=[robust], verbose=0).history
    assert history["adv_accuracy"] == [0.0]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"initial_samples": 1.5}, "`initial_samples` must be an int >= 1. Received: 1.5"),
        ({"num_steps": True}, "`num_steps` must be an int >= 1. Received: True"),
        ({"max_samples": 0}, "`max_samples` must be an int >= 1. Received: 0"),
        ({"num_restarts": 0}, "`num_restarts` must be an int >= 1. Received: 0"),
        ({"num_starts": -1}, "`num_starts` must be an int >= 1. Received: -1"),
        ({"samples_per_pass": "8"}, "`samples_per_pass` must be an int >= 1. Received: '8'"),
        ({"gamma": 0.0}, "`gamma` must be a number > 0. Received: 0.0"),
        ({"gamma": float("nan")}, "`gamma` must be a number > 0. Received: nan"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(HopSkipJump, message, **arguments)
