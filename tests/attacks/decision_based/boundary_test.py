import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from keras_robust.attacks.decision_based import boundary as module
from tests.support import backends
from tests.support import black_box
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals

Boundary = kr.attacks.Boundary
ANYWHERE = kr.L2(0.5).with_epsilon(np.inf)
SEEDS = np.array([[3, 4], [3, 8], [7, 1]], "int32")


class Free:
    """A box without bounds."""

    def clip(self, points):
        return points


def state(x_adv, orthogonal_step=0.01, source_step=0.01, hits=None, source_hits=None):
    ones = np.ones(len(x_adv), "float32")
    unknown = -np.ones((len(x_adv), 130), "float32")
    return module._State(
        x_adv=keras.ops.convert_to_tensor(x_adv),
        orthogonal_step=orthogonal_step * ones,
        source_step=source_step * ones,
        orthogonal_hits=unknown[:, :100] if hits is None else hits,
        source_hits=unknown[:, :30] if source_hits is None else source_hits,
        queries=np.zeros(len(x_adv), "int32"),
    )


def wrong(x, y):
    return linear_model.margin(x[None], y[None])[0] > 0


def reference(x, y, start, noise, orthogonal_step, source_step):
    """Returns the walk of Brendel et al. for one example in float64, from given random numbers."""
    point = start
    for eta in noise.astype("float64"):
        away, distance = point - x, np.linalg.norm(point - x)
        eta = eta - np.sum(eta * away) * away / distance**2
        eta *= orthogonal_step * distance / np.linalg.norm(eta)
        around = x + (away + eta) / np.sqrt(1.0 + orthogonal_step**2)
        around = np.clip(around, 0.0, 1.0)
        reached = np.linalg.norm(around - x)
        length = max(source_step * distance + reached - distance, 0.0)
        proposal = np.clip(around - length * (around - x) / reached, 0.0, 1.0)
        if wrong(proposal, y) and np.linalg.norm(proposal - x) < distance:
            point = proposal
    return point


def halved(path, y):
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if wrong(path(middle), y) else (middle, high)
    return path(high)


def test_is_the_walk_of_the_paper():
    x, y = linear_model.examples(3)
    attack = Boundary(num_steps=25, orthogonal_step=0.2, source_step=0.03, num_starts=20)
    problem = kr.attacks.SearchProblem(
        models.Classifier(linear_model.logits),
        keras.ops.convert_to_tensor(x),
        y,
        ANYWHERE,
        SEEDS,
    )
    found = attack.nearest(problem)
    shape = (3, 10, *linear_model.SHAPE)
    noise = [np.asarray(backend.normal(shape, SEEDS + np.array([20 + i, 0]))) for i in range(3)]
    noise = np.concatenate(noise, axis=1)[:, :25]
    starts = [np.asarray(backend.uniform(x.shape, SEEDS + np.array([i, 0]))) for i in range(20)]
    moved = 0.0
    for i in range(3):
        clean, drawn = x[i].astype("float64"), (one[i].astype("float64") for one in starts)
        first = next(one for one in drawn if wrong(one, y[i]))
        start = halved(lambda s, a=clean, b=first: a + s * (b - a), y[i])
        expected = reference(clean, y[i], start, noise[i], 0.2, 0.03)
        np.testing.assert_allclose(found.x_adv[i], expected, rtol=0, atol=1e-4)
        distance = np.linalg.norm(expected - clean)
        assert float(found.loss[i]) == pytest.approx(-distance, rel=1e-4)
        moved += np.linalg.norm(start - clean) - distance
    assert moved > 0.1


def test_a_proposal_goes_along_the_sphere_and_then_towards_the_example():
    rng = np.random.default_rng(0)
    x, x_adv, noise = (rng.normal(size=(4, 3, 2)).astype("float32") for _ in range(3))
    around, point = module._propose(Free(), x, state(x_adv, 0.3, 0.1), noise)
    before, beside, after = (np.asarray(one - x).reshape(4, 6) for one in (x_adv, around, point))
    norms = [np.linalg.norm(one, axis=-1) for one in (before, beside, after)]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)
    np.testing.assert_allclose(norms[2], 0.9 * norms[0], rtol=1e-5)
    cosine = np.sum(before * beside, axis=-1) / norms[0] ** 2
    np.testing.assert_allclose(cosine, 1.0 / np.sqrt(1.0 + 0.3**2), rtol=1e-5)
    np.testing.assert_allclose(after, 0.9 * beside, rtol=0, atol=1e-5)


def window(size, hits, unknown=0):
    """Returns rows of a window with some hits in front, and unknown entries at the end."""
    row = np.concatenate([np.ones(hits), np.zeros(size - hits - unknown), -np.ones(unknown)])
    return row[None].astype("float32")


@pytest.mark.parametrize(
    ("hits", "unknown", "factor"),
    [(50, 0, 1.5), (49, 0, 1.0), (19, 0, 1.0), (18, 0, 1 / 1.5), (60, 1, 1.5), (60, 2, 1.0)],
)
def test_the_steps_along_the_sphere_adapt(hits, unknown, factor):
    # One more hit is added, and the last entry of the window is dropped.
    before = state(np.zeros((1, 2), "float32"), hits=window(100, hits, unknown))
    after = module._adapt(before, np.array([True]), np.array([True]))
    assert float(after.orthogonal_step[0]) == pytest.approx(0.01 * factor)
    assert float(after.source_step[0]) == pytest.approx(0.01 * factor)
    assert np.all(np.asarray(after.orthogonal_hits) == -1.0) == (factor != 1.0)
    assert np.asarray(after.source_hits)[0, :2].tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("hits", "unknown", "factor"),
    [(8, 0, 1.5), (7, 0, 1.5), (6, 0, 1.0), (2, 0, 1.0), (1, 0, 1 / 1.5), (9, 2, 1.0)],
)
def test_the_steps_towards_the_example_adapt(hits, unknown, factor):
    before = state(np.zeros((1, 2), "float32"), source_hits=window(30, hits, unknown))
    after = module._adapt(before, np.array([False]), np.array([True]))
    assert float(after.orthogonal_step[0]) == pytest.approx(0.01)
    assert float(after.source_step[0]) == pytest.approx(0.01 * factor)
    assert np.asarray(after.orthogonal_hits)[0, :2].tolist() == [0.0, -1.0]


def test_finds_the_distance_to_the_boundary_of_a_linear_model():
    x, y = linear_model.examples()
    expected = black_box.distances(x, y, "L2")
    found = Boundary(num_steps=6000).run(linear_model.logits, x, y, ANYWHERE)
    np.testing.assert_allclose(-found.loss, expected, rtol=0.02)
    assert found.success.all() and np.all(-found.loss > expected * (1 - 1e-5))


@pytest.mark.exhaustive
def test_more_steps_lead_nearer():
    x, y = linear_model.examples()
    distances = [
        -Boundary(num_steps=count).run(linear_model.logits, x, y, ANYWHERE).loss
        for count in (5, 95, 1500)
    ]
    assert np.all(np.diff(distances, axis=0) < 0.0)


@pytest.mark.exhaustive
def test_uses_only_the_predicted_class_and_no_gradient():
    x, y = linear_model.examples()
    rng = np.random.default_rng(0)

    def changed(x):
        return np.exp(0.1 * black_box.linear(x) * rng.uniform(0.5, 2.0, (len(x), 1)))

    attack = Boundary(num_steps=200)
    found, other = (
        attack.run(black_box.BlackBox(function), x, y, ANYWHERE)
        for function in (black_box.linear, changed)
    )
    np.testing.assert_array_equal(other.x_adv, found.x_adv)
    assert found.success.all() and not found.zero_gradient.any()


@pytest.mark.exhaustive
def test_an_example_does_not_depend_on_the_rest_of_the_batch():
    x, y = numpy_reference.examples(4)
    model, attack = numpy_reference.keras_model(), Boundary(num_steps=60)
    together = attack.run(model, x, y, ANYWHERE)
    for i in range(4):
        alone = attack.run(model, x, y, ANYWHERE, rows=[i])
        np.testing.assert_allclose(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-4)


@pytest.mark.exhaustive
def test_queries_count_the_model_evaluations():
    x, y = linear_model.examples(3)
    model = black_box.BlackBox(black_box.linear)
    found = Boundary(num_steps=100).run(model, x, y, kr.L2(0.3), batch_size=1)
    # XLA merges the four evaluations at `x` into one call.
    merged = 3 * len(x) if backends.IS_JAX else 0
    assert model.asked == found.queries.sum() - merged
    # The evaluation at `x`, the first draws, ten bisection steps, and the judgement at the end.
    assert np.all(found.queries >= 110 + 1 + 1 + 10 + 3) and np.all(found.queries < 180)
    together = Boundary(num_steps=100).run(linear_model.logits, x, y, kr.L2(0.3))
    np.testing.assert_array_equal(together.queries, found.queries)


@pytest.mark.exhaustive
def test_num_steps_need_not_be_a_multiple_of_a_block():
    x, y = linear_model.examples(3)
    classifier = models.Classifier(linear_model.logits)
    tensors = map(keras.ops.convert_to_tensor, (x, y))
    problem = kr.attacks.SearchProblem(classifier, *tensors, ANYWHERE, SEEDS)
    # The way back to the boundary, which follows, need not end nearer for a nearer mistake.
    found = [Boundary(num_steps=count).nearest(problem) for count in (19, 20, 23)]
    queries = [np.asarray(each.queries) for each in found]
    # The last step of a block adapts the step sizes, which takes one more query.
    assert np.all(queries[1] - queries[0] == 2) and np.all(queries[2] - queries[1] == 3)
    distances = [np.linalg.norm(np.reshape(each.x_adv - x, (3, -1)), axis=-1) for each in found]
    assert np.all(distances[1] <= distances[0]) and np.all(distances[2] <= distances[1])
    assert np.any(distances[2] < distances[0])


@pytest.mark.exhaustive
def test_ends_when_the_step_has_shrunk():
    x, y = linear_model.examples(3)
    at_once = Boundary(source_step=0.9e-7).run(linear_model.logits, x, y, ANYWHERE)
    assert at_once.success.all() and np.all(at_once.queries < 60)


@pytest.mark.exhaustive
def test_without_a_start_the_example_is_unchanged():
    x, _ = linear_model.examples(3)
    model = black_box.BlackBox(lambda x: np.tile([[1.0, 0.0]], (len(x), 1)))
    found = Boundary(num_starts=9).run(model, x, np.array([0, 0, 1]), kr.L2(0.3))
    np.testing.assert_array_equal(found.x_adv, x)
    assert found.success.tolist() == [False, False, True]
    assert found.queries[:2].tolist() == [13, 13]


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_runs_inside_a_train_step(jit_compile):
    x, y = linear_model.examples(4)
    head = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input(linear_model.SHAPE), keras.layers.Flatten(), head])
    head.set_weights([linear_model.WEIGHTS, linear_model.BIAS])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"], jit_compile=jit_compile)
    robust = kr.AdvTrain(kr.L2(3.0), attack=Boundary(num_steps=30), warmup=0)
    history = model.fit(x, y, batch_size=4, callbacks=[robust], verbose=0).history
    assert history["adv_accuracy"] == [0.0]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"num_restarts": True}, "`num_restarts` must be an int >= 1. Received: True"),
        ({"num_starts": 2.0}, "`num_starts` must be an int >= 1. Received: 2.0"),
        ({"orthogonal_step": 0}, "`orthogonal_step` must be a number > 0. Received: 0"),
        ({"source_step": "1"}, "`source_step` must be a number > 0. Received: '1'"),
        ({"source_step": float("inf")}, "`source_step` must be a number > 0. Received: inf"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(Boundary, message, **arguments)
