import keras
import numpy as np
import pytest
from scipy import stats

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import black_box
from tests.support import hashing
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

RandomNoise = kr.attacks.RandomNoise
SEEDS = np.array([[5, 6], [5, 9], [7, 6], [1, 2], [0, 3]], "int32")
FREE_CUBE = kr.Linf(0.2, bounds=None)
EPSILON = {"Linf": 0.2, "L2": 0.5, "L1": 0.9}


def search(attack, ball, keep_best=True, seeds=SEEDS):
    x, y = numpy_reference.examples()
    classifier = models.Classifier(numpy_reference.keras_model())
    x = keras.ops.convert_to_tensor(x)
    return attack.search(kr.attacks.SearchProblem(classifier, x, y, ball, seeds, keep_best))


def drawn(x, ball, number, sphere):
    """Returns the points of one draw: in Linf from the hash, else from the threat model."""
    if not isinstance(ball, kr.Linf):
        draw = ball.random_start_on_sphere if sphere else ball.random_start
        return np.asarray(draw(x, SEEDS + np.array([number, 0], "int32")))
    bits = [hashing.draw(hashing.key(seed), number, x[0].size) for seed in SEEDS]
    noise = (2 * (np.array(bits) >> 9) + 1) / 2**23 - 1.0
    if sphere:
        noise = noise / np.abs(noise).max(axis=1, keepdims=True)
    return np.clip(x + ball.epsilon * noise.reshape(x.shape), 0.0, 1.0)


def scores(points, loss):
    """Returns loss and success from float64 logits."""
    _, y = numpy_reference.examples()
    z = numpy_reference.logits(points.astype("float64"))
    cross_entropy = np.log(np.exp(z).sum(-1)) - z[np.arange(len(y)), y]
    return loss(y, z) if callable(loss) else cross_entropy, z.argmax(-1) != y


def first_mistake_or_worst(ball, count, sphere=False, loss="cross_entropy"):
    """Returns the expected point and the number of queries."""
    x, _ = numpy_reference.examples()
    best, (value, done) = x.copy(), scores(x, loss)
    queries = np.full(len(x), 2)
    for number in range(count):
        points = drawn(x, ball, number, sphere)
        new, wrong = scores(points, loss)
        queries += ~done
        wins = ~done & (wrong | (new > value))
        best[wins], value, done = points[wins], np.where(wins, new, value), done | wrong
    return best, queries


@pytest.mark.exhaustive
@tiers.parametrize("sphere", [False, True])
@tiers.parametrize("norm", EPSILON)
def test_is_the_first_mistake_or_the_worst_of_the_draws(norm, sphere):
    ball = getattr(kr.threat_models, norm)(EPSILON[norm])
    found = search(RandomNoise(num_samples=25, sphere=sphere), ball)
    expected, queries = first_mistake_or_worst(ball, 25, sphere)
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.queries, queries)
    assert len(set(queries)) > 1 and max(queries) == 27


@pytest.mark.exhaustive
def test_the_loss_ranks_the_draws():
    ball = kr.Linf(0.02)

    def first(y, logits):
        return logits[:, 0]

    one, other = (
        first_mistake_or_worst(ball, 40, loss=loss)[0] for loss in ("cross_entropy", first)
    )
    assert np.abs(one - other).max() > 0.01
    found = search(RandomNoise(num_samples=40, loss=first), ball)
    np.testing.assert_allclose(found.x_adv, other, rtol=0, atol=1e-6)


@pytest.mark.exhaustive
def test_more_draws_are_never_better_for_the_model():
    found = [search(RandomNoise(num_samples=count), kr.L2(0.3)) for count in (1, 3, 12, 40)]
    losses, standing = [one.loss for one in found], ~np.asarray(found[0].success)
    assert np.all(np.diff(losses, axis=0) >= 0.0) and standing.sum() > 1
    assert np.all((np.asarray(losses[-1]) > losses[0])[standing])


def test_breaks_as_many_examples_as_noise_does():
    # Both coordinates are uniform in +-0.15, so that the second gains 0.2 on the first in 1 of 18
    # cases.
    x = np.tile(np.array([[0.6, 0.4]], "float32"), (6000, 1))
    found = RandomNoise(num_samples=1).run(lambda x: x, x, np.zeros(6000, int), kr.Linf(0.15))
    assert found.success.mean() == pytest.approx(1 / 18, abs=0.01)


@pytest.mark.exhaustive
def test_targets():
    x, y = numpy_reference.examples()
    model, ball = numpy_reference.keras_model(), kr.Linf(0.4)
    second = np.argsort(numpy_reference.logits(x), axis=-1)[:, 1]
    aimed = RandomNoise(num_samples=200, targeted=True).run(model, x, second, ball)
    reached = numpy_reference.logits(aimed.x_adv).argmax(-1) == second
    np.testing.assert_array_equal(aimed.success, reached)
    guessed = RandomNoise(num_samples=200, targeted="least_likely").run(model, x, y, ball)
    wrong = numpy_reference.logits(guessed.x_adv).argmax(-1) != y
    np.testing.assert_array_equal(guessed.success, wrong)
    assert reached.any() and (guessed.x_adv != aimed.x_adv).any()


def test_examples_that_no_draw_makes_worse_are_unchanged():
    x, y = linear_model.examples()
    found = RandomNoise(num_samples=5).run(
        lambda x: keras.ops.stack([-((x[:, 0, 0, 0] - x0) ** 2) for x0 in (0.0, 9.0)], -1),
        np.zeros_like(x),
        np.zeros_like(y),
        kr.Linf(0.1),
    )
    np.testing.assert_array_equal(found.x_adv, 0.0)
    assert not found.success.any() and not found.zero_gradient.any()


@pytest.mark.parametrize("epsilon,count", [(0.001, 1), (0.2, 10)])
def test_in_training_it_is_the_worst_draw_even_if_the_example_is_worse(epsilon, count):
    x, y = numpy_reference.examples()
    ball = kr.Linf(epsilon)
    found = search(RandomNoise(num_samples=count), ball, keep_best=False)
    points = np.stack([drawn(x, ball, number, False) for number in range(count)])
    values = [value + 1e3 * wrong for value, wrong in (scores(p, None) for p in points)]
    expected = points[np.argmax(values, axis=0), np.arange(len(x))]
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=1e-6)
    assert np.asarray(found.queries).tolist() == [count + 1] * len(x)


def test_queries_count_the_evaluations_of_a_model_without_gradients():
    x, y = linear_model.examples()
    model = black_box.BlackBox(black_box.linear)
    found = RandomNoise(num_samples=37).run(model, x, y, kr.Linf(1e-3), batch_size=len(x))
    assert found.queries.tolist() == [39] * len(x)
    # XLA merges two calls at the same point into one.
    assert model.asked == (39 - backends.IS_JAX) * len(x)


@pytest.mark.exhaustive
def test_ends_when_all_are_broken_and_keeps_broken_points():
    x, y = numpy_reference.examples(8)
    y[0] = (y[0] + 1) % 3
    model = black_box.BlackBox(numpy_reference.logits, 3)
    found = RandomNoise(num_samples=3000).run(model, x, y, kr.Linf(0.8))
    assert found.success.all() and found.queries[0] == 2
    np.testing.assert_array_equal(found.x_adv[0], x[0])
    assert len(model.calls) == found.queries.max() - backends.IS_JAX < 1000
    fewer = RandomNoise(num_samples=int(found.queries.max())).run(model, x, y, kr.Linf(0.8))
    np.testing.assert_array_equal(fewer.x_adv, found.x_adv)


@pytest.mark.exhaustive
def test_does_not_depend_on_the_batch():
    x, y = numpy_reference.examples(7)
    model, ball = numpy_reference.keras_model(), kr.Linf(0.1)
    together = RandomNoise(num_samples=30).run(model, x, y, ball)
    parts = RandomNoise(num_samples=30).run(model, x, y, ball, batch_size=2)
    np.testing.assert_allclose(parts.x_adv, together.x_adv, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(parts.queries, together.queries)


def test_points_of_a_cube_are_uniform():
    found = RandomNoise(num_samples=1).run(
        lambda x: x[:, :2], np.zeros((3000, 3), "float32"), np.zeros(3000, int), FREE_CUBE
    )
    # With equal logits the first class is predicted. A draw succeeds if the second logit gains.
    assert found.success.mean() == pytest.approx(0.5, abs=0.03)
    moved = found.x_adv[found.success]
    # The third coordinate has no effect; the difference of the others is that of two uniform
    # numbers.
    assert stats.kstest(moved[:, 2], stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3
    gap = moved[:, 1] - moved[:, 0]
    assert stats.kstest(gap, lambda g: 1.0 - (1.0 - g / 0.4) ** 2).pvalue > 1e-3


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"num_samples": 0}, "`num_samples` must be an int >= 1. Received: 0"),
        ({"num_samples": True}, "`num_samples` must be an int >= 1. Received: True"),
        ({"num_samples": 1.5}, "`num_samples` must be an int >= 1. Received: 1.5"),
        ({"sphere": "yes"}, "`sphere` must be one of .*Received: 'yes'"),
        ({"targeted": "most"}, "`targeted` must be one of .*Received: 'most'"),
        ({"loss": "compiled"}, "`loss` must be one of .*Received: 'compiled'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(RandomNoise, message, **arguments)
