import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.threat_models.parsing import SCHEDULE
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers
from tests.threat_models import patch_places_test

Patch = kr.threat_models.Patch
SIZE = patch_places_test.SIZE
MASK = np.random.default_rng(8).uniform(size=(5, 6, 1)) < 0.3
BOX = (np.array([0.0, -1.0], "float32"), np.array([1.0, 0.5], "float32"))
WIDTH = BOX[1] - BOX[0]


def images(count=4):
    """Returns images near their bounds, and points that are partly outside."""
    rng = np.random.default_rng(2)
    x = BOX[0] + WIDTH * rng.beta(0.5, 0.5, size=(count, 5, 6, 2))
    return x.astype("float32"), (x + rng.normal(0.0, 0.7, size=x.shape)).astype("float32")


def places(patch):
    return [patch.mask] if patch.size is None else patch_places_test.windows()


def nearest_points(patch, x, x_adv, share):
    """Returns the feasible points of one image for each place of the patch."""
    inside = np.clip(np.clip(x_adv, x - share * WIDTH, x + share * WIDTH), *BOX)
    return [np.where(mask, inside, x) for mask in places(patch)]


BALLS = {
    "mask": Patch(mask=MASK, bounds=BOX),
    "size": Patch(SIZE, bounds=BOX),
    "translucent": Patch(SIZE, epsilon=0.3, bounds=BOX),
}
every_ball = pytest.mark.parametrize("name", BALLS)


@every_ball
def test_projection_is_the_nearest_point_of_all_places(name):
    ball, (x, x_adv) = BALLS[name], images()
    found = np.asarray(ball.project(x_adv, x))
    for one, wanted, nearest in zip(x, x_adv, found, strict=True):
        points = nearest_points(ball, one, wanted, float(ball.epsilon))
        best = min(points, key=lambda point: np.sum((point - wanted) ** 2, dtype="float64"))
        np.testing.assert_array_equal(nearest, best)


@every_ball
def test_linear_maximum_is_the_sum_over_the_mask_of_the_best_ends_of_the_box(name):
    ball, (x, _) = BALLS[name], images()
    slope = np.random.default_rng(5).normal(size=x.shape).astype("float32")
    found = np.asarray(ball.linear_maximization_oracle(slope, x))
    room = float(ball.epsilon) * WIDTH
    ends = [np.maximum(BOX[0], x - room) - x, np.minimum(BOX[1], x + room) - x]
    gain = np.maximum(*(slope * end for end in ends))
    for image in range(len(x)):
        expected = max(np.sum(gain[image] * mask, dtype="float64") for mask in places(ball))
        reached = np.sum(slope[image] * (found - x)[image], dtype="float64")
        assert reached == pytest.approx(expected, rel=1e-5)
    assert np.all(ball.contains(found, x))


def linear_model(slope):
    """Returns a model with the logits `[0, <slope, x>]`."""
    weights = np.stack([np.zeros(slope.size), slope.ravel()], axis=1).astype("float32")
    return lambda x: keras.ops.matmul(keras.ops.reshape(x, (-1, slope.size)), weights)


@tiers.parametrize("attack", [kr.attacks.PGD(), kr.attacks.APGD(num_steps=20), kr.attacks.FGSM()])
def test_evaluation_of_a_linear_model_is_its_closed_form(attack):
    x, _ = images(40)
    slope = np.random.default_rng(5).normal(size=x.shape[1:]).astype("float32")
    scores = np.sum(x * slope, axis=(1, 2, 3))
    room = np.float32(0.15) * WIDTH
    ends = [np.maximum(BOX[0], x - room) - x, np.minimum(BOX[1], x + room) - x]
    lowest = scores + np.sum(MASK * np.minimum(*(slope * end for end in ends)), axis=(1, 2, 3))
    highest = scores + np.sum(MASK * np.maximum(*(slope * end for end in ends)), axis=(1, 2, 3))
    robust = np.where(scores > 0.0, lowest > 0.0, highest <= 0.0)
    y = (scores > 0.0).astype("int32")
    report = kr.evaluate(linear_model(slope), (x, y), Patch(None, MASK, 0.15, BOX), attack)
    assert report.clean_accuracy == 1.0 and 0.1 < robust.mean() < 0.9
    np.testing.assert_array_equal(report.robust, robust)


def test_a_training_step_is_that_of_the_masked_features():
    x, y = linear_fit.data()
    mask = np.array([1, 0, 1, 0])
    model = linear_fit.make_model()
    ball = Patch(mask=mask, epsilon=0.2)
    linear_fit.fit(model, kr.AdvTrain(ball, attack="fgsm", warmup=0), x, y)
    expected, _ = linear_fit.expected(x, y, epsilon=lambda step: 0.2 * mask)
    np.testing.assert_allclose(linear_fit.weights(model), expected, rtol=0, atol=2e-5)


def corners(delta):
    """Returns the first row and column of each patch."""
    return np.stack(
        [np.argmax(np.any(delta != 0.0, axis=axes), axis=1) for axes in ((2, 3), (1, 3))], axis=1
    )


@pytest.mark.exhaustive
def test_training_takes_patches_at_random_places():
    x, _ = images(8)
    y = np.arange(8) % 2
    layers = [keras.Input(x.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = model.get_weights()[0]
    callback = kr.AdvTrain(BALLS["size"], attack=kr.attacks.PGD(num_steps=2), warmup=0)
    logs = model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback]).history
    assert "adv_accuracy" in logs and np.abs(model.get_weights()[0] - start).max() > 1e-4


@pytest.mark.exhaustive
def test_every_search_draws_one_place_per_example_whatever_the_batch_size():
    x, _ = images(24)
    slope = np.random.default_rng(5).normal(size=x.shape[1:]).astype("float32")
    y = (np.sum(x * slope, axis=(1, 2, 3)) > 0.0).astype("int32")
    attack, ball = kr.attacks.PGD(num_steps=4, loss="margin"), Patch((1, 2), bounds=BOX)
    found = attack.run(linear_model(slope), x, y, ball)
    again = attack.run(linear_model(slope), x, y, ball, batch_size=7)
    np.testing.assert_array_equal(again.x_adv, found.x_adv)
    # The margin is linear, so that PGD reaches the best point of the drawn place.
    delta = found.x_adv - x
    first = corners(delta)
    masks = np.zeros((*x.shape[:3], 1), "bool")
    for image, (row, column) in enumerate(first):
        masks[image, row : row + 1, column : column + 2] = True
    sign = np.where(y > 0, -1.0, 1.0)[:, None, None, None]
    best = np.where(masks, np.where(sign * slope > 0.0, BOX[1], BOX[0]), x)
    np.testing.assert_allclose(found.x_adv, best, rtol=0, atol=1e-6)
    assert len({tuple(one) for one in first}) > 10
    other = attack.run(linear_model(slope), x, y, ball, seed=3)
    assert np.any(corners(other.x_adv - x) != first)


def test_places_are_uniform():
    x = np.full((6000, 4, 3, 2), 0.25, "float32")
    start = np.asarray(Patch((2, 2), bounds=BOX).random_start(x, np.array([3, 4], "int32")))
    changed = start != x
    # Six places, three rows and two columns; the tolerance is four standard deviations.
    counts = np.unique(corners(changed), axis=0, return_counts=True)[1]
    assert len(counts) == 6
    np.testing.assert_allclose(counts / 6000, 1 / 6, atol=4 * np.sqrt(5 / 36 / 6000))
    values = start[changed].reshape(-1, 2)
    np.testing.assert_allclose(values.mean(axis=0), [0.5, -0.25], atol=0.02)
    np.testing.assert_allclose(values.std(axis=0), WIDTH / np.sqrt(12), atol=0.02)


def test_the_place_of_an_example_does_not_depend_on_its_batch():
    x, _ = images(12)
    seeds = np.stack([np.full(12, 3), np.arange(12)], axis=1).astype("int32")
    start = np.asarray(BALLS["size"].random_start(x, seeds))
    few = BALLS["size"].random_start(x[5:7], seeds[5:7])
    np.testing.assert_array_equal(few, start[5:7])
    assert len(np.unique(corners(start - x), axis=0)) > 5


def test_distance_is_the_largest_share_of_the_width_in_one_patch():
    x = np.zeros((4, 5, 6, 2), "float32")
    x_adv = x.copy()
    x_adv[1, 1, 2, 0], x_adv[1, 2, 4, 1] = 0.2, -0.6
    x_adv[2, 0, 0, 0], x_adv[2, 0, 3, 0] = 0.1, 0.1
    x_adv[3, 4, 5] = 1.5
    ball = Patch(SIZE, epsilon=0.5, bounds=BOX)
    np.testing.assert_allclose(ball.distance(x_adv, x), [0.0, 0.4, np.inf, 1.5], rtol=1e-6)
    np.testing.assert_array_equal(ball.contains(x_adv, x), [True, True, False, False])
    masked = Patch(mask=x_adv[1] != 0.0, bounds=BOX)
    np.testing.assert_allclose(masked.distance(x_adv, x), [0.0, 0.4, np.inf, np.inf], rtol=1e-6)


def test_contains_ignores_rounding_only():
    x, _ = images()
    x_adv = x * np.float32(1 + 1e-7)
    x_adv[1, 0, 0], x_adv[2, 0, 0], x_adv[2, 4, 5] = BOX[1], BOX[1], BOX[1] + 0.01
    np.testing.assert_array_equal(BALLS["size"].contains(x_adv, x), [True, True, False, True])


def test_steps_move_every_feature_of_the_patch_by_a_share_of_its_width():
    x, _ = images(2)
    slope = np.random.default_rng(5).normal(size=x.shape).astype("float32")
    moved = BALLS["mask"].step(x, slope, np.array([0.25, 0.5], "float32"))
    share = np.array([0.25, 0.5]).reshape(2, 1, 1, 1)
    expected = x + np.where(MASK, share * WIDTH * np.sign(slope), 0.0)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-6)
    # The dual norm is the gain of a direction of norm 1.
    expected = np.sum(np.where(MASK, np.abs(slope) * WIDTH, 0.0), axis=(1, 2, 3))
    np.testing.assert_allclose(BALLS["mask"].dual_norm(slope), expected, rtol=1e-5)


@every_ball
def test_a_radius_of_zero_changes_nothing(name):
    x, x_adv = images()
    ball = BALLS[name].with_epsilon(0.0)
    np.testing.assert_array_equal(ball.project(x_adv, x), x)
    np.testing.assert_array_equal(ball.random_start(x, np.array([1, 2])), x)


def test_without_a_box_shares_keep_their_unit():
    delta = np.full((1, 5, 6, 2), 2.0, "float32")
    found = BALLS["mask"].scaled(0.5).without_bounds().project(delta, np.zeros_like(delta))
    expected = np.where(MASK, 0.5 * WIDTH, 0.0)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6)
    doubled = BALLS["mask"].with_bounds((0.0, 2.0)).linear_maximization_oracle(delta, 0.0 * delta)
    np.testing.assert_array_equal(doubled[0], np.where(MASK, 2.0, [0.0, 0.0]))


def test_a_schedule_gives_the_share_of_each_step():
    ball = Patch(mask=MASK, epsilon=keras.optimizers.schedules.PolynomialDecay(0.2, 10, 1.0))
    assert isinstance(ball.epsilon, SCHEDULE)
    x = np.zeros((1, 5, 6, 2), "float32")
    for step, share in ((0, 0.2), (5, 0.6), (10, 1.0)):
        found = ball.at(step).linear_maximization_oracle(x + 1.0, x)
        np.testing.assert_allclose(np.max(found), share, rtol=1e-6)


@pytest.mark.exhaustive
def test_one_of_several_inputs_has_a_patch():
    x, _ = images(6)
    inputs = {"image": x, "age": np.full((6, 1), 0.5, "float32")}
    ball = kr.threat_models.PerInput({"image": Patch((2, 2), bounds=BOX), "age": kr.Linf(0.1)})

    def model(given):
        total = keras.ops.sum(given["image"], axis=(1, 2, 3))[:, None] + given["age"]
        return keras.ops.concatenate([keras.ops.zeros_like(total), total], axis=-1)

    y = np.argmax(model(inputs), axis=-1)
    attack = kr.attacks.PGD(num_steps=4, loss="margin")
    found = attack.run(model, inputs, y, ball)
    delta = found.x_adv["image"] - x
    for image, (row, column) in enumerate(corners(delta)):
        window = (image, slice(row, row + 2), slice(column, column + 2))
        end = BOX[1] if y[image] == 0 else BOX[0]
        np.testing.assert_allclose(found.x_adv["image"][window], np.tile(end, (2, 2, 1)), atol=1e-6)
        delta[window] = 0.0
    np.testing.assert_array_equal(delta, 0.0)
    assert np.all(ball.contains(found.x_adv, inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a `size`.*Received: size=None, mask=None"),
        ({"size": 3, "mask": [1]}, r"either a `size`.*Received: size=3, mask=\[1\]"),
        ({"size": 0}, "must be an int >= 1.*Received: size=0"),
        ({"size": (2, 1.5)}, r"must be an int >= 1.*Received: size=\(2, 1.5\)"),
        ({"size": (1, 2, 3)}, r"pair \(rows, columns\).*Received: size=\(1, 2, 3\)"),
        ({"mask": [0, 0]}, r"at least one true entry. Received: mask=\[0, 0\]"),
        ({"mask": [0, 0.5]}, r"array of bool.*Received: mask=\[0, 0.5\]"),
        ({"size": 2, "epsilon": 8}, "share of the width.*Received: epsilon=8"),
        ({"size": 2, "bounds": None}, "finite bounds.*Received: bounds=None"),
        ({"size": 2, "bounds": (0, np.inf)}, r"finite bounds.*Received: bounds=\(0, inf\)"),
    ],
)
def test_wrong_arguments(arguments, message):
    with refusals.assert_refused(message):
        Patch(**arguments)


@pytest.mark.parametrize(
    ("ball", "shape", "message"),
    [
        (
            Patch(4),
            (2, 5, 3, 1),
            r"must fit into the image. Received: size=\(4, 4\) .*\(2, 5, 3, 1\)",
        ),
        (Patch(2), (2, 9), r"needs images.*Received: size=\(2, 2\) for inputs of shape \(2, 9\)"),
        (Patch(mask=np.ones((5, 2))), (2, 5, 3, 1), r"broadcast.*mask of shape \(5, 2\)"),
        (Patch(mask=np.ones((1, 2))), (2, 2), r"broadcast.*mask of shape \(1, 2\)"),
    ],
)
def test_inputs_that_do_not_fit_are_explained(ball, shape, message):
    with refusals.assert_refused(message):
        kr.attacks.FGSM()(lambda x: x, np.zeros(shape, "float32"), np.zeros(2, "int32"), ball)
