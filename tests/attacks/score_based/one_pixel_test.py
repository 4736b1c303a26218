import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import refusals

OnePixel = kr.attacks.OnePixel
IMAGE = (3, 4, 2)
_RNG = np.random.default_rng(11)
KERNEL = _RNG.normal(size=(24, 3)).astype("float32")


def linear(x):
    return keras.ops.matmul(keras.ops.reshape(x, (-1, 24)) - 0.5, KERNEL)


def logits(x):
    return (x.reshape(len(x), 24).astype("float64") - 0.5) @ KERNEL


def margin(x, y):
    z = logits(x)
    others = np.where(np.eye(3)[y] > 0, -np.inf, z)
    return others.max(axis=-1) - z[np.arange(len(y)), y]


def examples(count=12):
    """Returns images; every second one is moved far into its class."""
    x = np.random.default_rng(3).uniform(size=(count, *IMAGE)).astype("float32")
    y = np.argmax(logits(x), axis=-1)
    push = (KERNEL[:, y].T - KERNEL.mean(axis=-1)).reshape(x.shape)
    x[::2] = np.clip(x + 0.3 * push, 0.0, 1.0)[::2]
    return x, y


def best_pixel(x, y):
    """Returns the largest margin of one pixel: on a linear model its channels are at a bound."""
    best = margin(x, y)
    for row, column in np.ndindex(IMAGE[:2]):
        for colour in np.ndindex(2, 2):
            changed = x.copy()
            changed[:, row, column] = colour
            best = np.maximum(best, margin(changed, y))
    return best


def pixels_changed(x_adv, x):
    return np.any(x_adv != x, axis=-1).sum(axis=(1, 2))


@pytest.mark.exhaustive
def test_finds_the_best_pixel_of_an_exhaustive_search():
    x, y = examples()
    best = best_pixel(x, y)
    assert 2 < np.sum(best > 0.0) < len(x) - 2
    attack = OnePixel(population_size=100, num_steps=30)
    found = attack.run(linear, x, y, kr.L0(1, per_pixel=True))
    np.testing.assert_array_equal(found.success, best > 0.0)
    np.testing.assert_array_equal(found.success, margin(found.x_adv, y) > 0.0)
    np.testing.assert_allclose(found.loss, margin(found.x_adv, y), atol=1e-5)
    # If no pixel is enough, the search continues to the best one.
    np.testing.assert_allclose(found.loss[~found.success], best[~found.success], atol=1e-2)
    assert np.all(pixels_changed(found.x_adv, x) <= 1)
    assert np.all((found.x_adv >= 0.0) & (found.x_adv <= 1.0))


@pytest.mark.exhaustive
def test_evolution_improves_the_loss():
    x, y = examples(30)
    ball = kr.L0(1, per_pixel=True)
    losses = [
        OnePixel(population_size=30, num_steps=steps).run(linear, x, y, ball)
        for steps in (1, 5, 25)
    ]
    hard = ~losses[-1].success
    means = [found.loss[hard].mean() for found in losses]
    assert means[0] < means[1] < means[2]
    for earlier, later in zip(losses, losses[1:], strict=False):
        assert np.all(later.loss[hard] >= earlier.loss[hard])


@pytest.mark.exhaustive
def test_several_pixels_as_far_as_epsilon_allows():
    x, y = examples(30)
    attack = OnePixel(num_pixels=3, population_size=50, num_steps=10)
    counts = np.array([1, 2, 3] * 10)
    found = attack.run(linear, x, y, kr.L0(counts, per_pixel=True))
    changed = pixels_changed(found.x_adv, x)
    assert np.all(changed <= counts) and set(changed) == {1, 2, 3}
    # `L0` counts features here, so that a pixel with two channels counts as two.
    found = attack.run(linear, x, y, kr.L0(5))
    assert pixels_changed(found.x_adv, x).max() == 2


@pytest.mark.exhaustive
def test_colours_lie_in_the_box_of_their_channel():
    x, y = examples(30)
    low, high = np.array([-2.0, 0.0]), np.array([1.0, 5.0])
    attack = OnePixel(population_size=20, num_steps=3)
    found = attack.run(linear, x, y, kr.L0(1, (low, high), per_pixel=True))
    assert np.all(found.x_adv >= low) and np.all(found.x_adv <= high)
    assert found.x_adv[..., 0].min() == -2.0 and found.x_adv[..., 1].max() == 5.0


@pytest.mark.exhaustive
def test_every_feature_of_a_vector_is_a_pixel():
    x, y = examples()
    flat = x.reshape(-1, 24)
    found = OnePixel(population_size=100, num_steps=30).run(linear, flat, y, kr.L0(1))
    assert np.all(np.sum(found.x_adv != flat, axis=-1) <= 1)
    best = margin(x, y)
    for feature, value in np.ndindex(24, 2):
        changed = flat.copy()
        changed[:, feature] = value
        best = np.maximum(best, margin(changed, y))
    np.testing.assert_array_equal(found.success, best > 0.0)


@pytest.mark.exhaustive
def test_queries_end_at_the_first_success():
    x, y = examples()
    found = OnePixel(population_size=10, num_steps=4).run(linear, x, y, kr.L0(1, per_pixel=True))
    np.testing.assert_array_equal(found.queries[~found.success], 2 + 10 * 5)
    assert set((found.queries - 2) % 10) == {0} and found.queries[found.success].min() == 12


def test_a_mistake_keeps_its_point_and_the_loss_there():
    x, y = examples(6)
    wrong = (y + 1) % 3
    attack = OnePixel(num_pixels=2, population_size=40, num_steps=3)
    found = attack.run(linear, x, wrong, kr.L0(2, per_pixel=True))
    np.testing.assert_array_equal(found.success, np.ones(6, "bool"))
    np.testing.assert_array_equal(found.x_adv, x)
    np.testing.assert_allclose(found.loss, margin(x, wrong), rtol=0, atol=1e-5)


@pytest.mark.exhaustive
def test_needs_no_gradient():
    def rounded(x):
        return keras.ops.round(4.0 * linear(x))

    x, _ = examples()
    y = np.argmax(np.round(4.0 * logits(x)), axis=-1)
    found = OnePixel(population_size=50, num_steps=10).run(rounded, x, y, kr.L0(2))
    assert found.success.any() and not found.zero_gradient.any()
    assert np.count_nonzero(found.x_adv != x, axis=-1).max() == 2


@pytest.mark.exhaustive
def test_targeted_reaches_the_target():
    x, y = examples()
    target = (y + 1) % 3
    attack = OnePixel(num_pixels=3, population_size=60, num_steps=15, targeted=True)
    found = attack.run(linear, x, target, kr.L0(3, per_pixel=True))
    reached = np.argmax(logits(found.x_adv), axis=-1) == target
    np.testing.assert_array_equal(found.success, reached)
    assert 0 < found.success.sum()


@pytest.mark.exhaustive
def test_an_example_depends_on_its_seed_and_not_on_the_batch():
    x, y = examples(6)
    attack = OnePixel(population_size=10, num_steps=3)
    ball = kr.L0(1, per_pixel=True)
    together = attack.run(linear, x, y, ball, seed=4)
    for i in range(6):
        alone = attack.run(linear, x, y, ball, seed=4, rows=[i])
        np.testing.assert_array_equal(alone.x_adv[0], together.x_adv[i])
        assert alone.queries[0] == together.queries[i]
    assert np.any(attack.run(linear, x, y, ball, seed=5).x_adv != together.x_adv)


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [1, np.array([2, 1, 3])])
def test_a_ball_without_room_for_one_pixel_is_refused(count):
    x, y = examples(3)
    message = (
        r"a pixel with 2 channels counts as 2, .*Use per_pixel=True.*epsilon >= 2. Received: L0"
    )
    attack = OnePixel(population_size=5, num_steps=1)
    with pytest.raises(ValueError, match=message):
        attack.run(linear, x, y, kr.L0(count))
    classifier, tensors = models.Classifier(linear), keras.ops.convert_to_tensor(x)
    seed = np.array([1, 2], "int32")
    with pytest.raises(ValueError, match=message):
        attack.search(kr.attacks.SearchProblem(classifier, tensors, y, kr.L0(count), seed))
    assert attack.run(linear, x, y, kr.L0(2)).queries.min() >= 2
    assert attack.run(linear, x, y, kr.L0(1, per_pixel=True)).queries.min() >= 2


def test_another_norm_is_refused():
    x, y = examples(2)
    with pytest.raises(ValueError, match=r"needs the threat model L0, .*Received: Linf\("):
        OnePixel().run(linear, x, y, kr.Linf(0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_pixels": 0}, "`num_pixels` must be an int >= 1. Received: 0"),
        ({"population_size": 3}, "`population_size` must be an int >= 4, .*Received: 3"),
        ({"num_steps": 1.0}, "`num_steps` must be an int >= 1. Received: 1.0"),
        ({"scale": 0.0}, "`scale` must be a number > 0. Received: 0.0"),
        ({"targeted": "least_likely"}, "`targeted` must be a bool. Received: 'least_likely'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(OnePixel, message, **arguments)
