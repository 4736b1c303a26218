import itertools

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import refusals

L0 = kr.threat_models.L0
IMAGE = (2, 2, 3)


def subsets(count, epsilon):
    """Returns all masks of at most `epsilon` of `count` positions."""
    for size in range(epsilon + 1):
        for chosen in itertools.combinations(range(count), size):
            yield np.isin(np.arange(count), chosen)


def images(count=5):
    """Returns images near their bounds, and points that are partly outside."""
    rng = np.random.default_rng(2)
    x = rng.beta(0.5, 0.5, size=(count, *IMAGE)).astype("float32")
    return x, (x + rng.normal(0.0, 0.7, size=x.shape)).astype("float32")


def spread(mask, per_pixel):
    """Returns a mask of positions as a mask of the features of one image."""
    return np.repeat(mask, 3).reshape(IMAGE) if per_pixel else mask.reshape(IMAGE)


@pytest.mark.parametrize(("per_pixel", "positions"), [(False, 12), (True, 4)])
def test_projection_is_the_nearest_of_all_choices(per_pixel, positions):
    x, x_adv = images()
    found = np.asarray(L0(2, per_pixel=per_pixel).project(x_adv, x))
    for one, wanted, nearest in zip(x, x_adv, found, strict=True):
        points = [
            np.where(spread(mask, per_pixel), np.clip(wanted, 0.0, 1.0), one)
            for mask in subsets(positions, 2)
        ]
        best = min(points, key=lambda point: np.sum((point - wanted) ** 2, dtype="float64"))
        np.testing.assert_array_equal(nearest, best)


@pytest.mark.parametrize(("per_pixel", "positions"), [(False, 12), (True, 4)])
def test_linear_maximiser_is_the_best_of_all_choices(per_pixel, positions):
    x, _ = images()
    low, high = np.array([-0.5, 0.0, 0.0], "float32"), np.array([1.0, 2.0, 1.0], "float32")
    direction = np.random.default_rng(5).normal(size=x.shape).astype("float32")
    direction[:, 0, 0] = 0.0
    ball = L0(2, (low, high), per_pixel=per_pixel)
    found = np.asarray(ball.linear_maximization_oracle(direction, x))
    for one, slope, best in zip(x, direction, found, strict=True):
        corner = np.where(slope > 0.0, high, low)
        gain = slope * (corner - one)
        expected = max(np.sum(gain[spread(mask, per_pixel)]) for mask in subsets(positions, 2))
        assert np.sum(slope * (best - one)) == pytest.approx(expected, abs=1e-5)
        np.testing.assert_array_equal(best[0, 0], one[0, 0])


def test_of_equal_changes_only_epsilon_are_kept():
    x, x_adv = np.zeros((2, 4), "float32"), np.full((2, 4), 0.5, "float32")
    np.testing.assert_array_equal(L0(2).project(x_adv, x), [[0.5, 0.5, 0.0, 0.0]] * 2)


def test_one_count_per_example():
    x, x_adv = np.zeros((2, 4), "float32"), np.array([[0.1, 0.4, 0.3, 0.2]] * 2, "float32")
    expected = [[0.0, 0.4, 0.0, 0.0], [0.0, 0.4, 0.3, 0.2]]
    np.testing.assert_array_equal(L0([1, 3]).project(x_adv, x), np.array(expected, "float32"))
    np.testing.assert_array_equal(L0(4).with_epsilon(0.0).project(x_adv, x), x)
    np.testing.assert_array_equal(L0(1).with_epsilon(np.inf).project(x_adv, x), x_adv)


def test_a_count_between_two_numbers_is_rounded_down():
    x, x_adv = np.zeros((1, 3), "float32"), np.array([[0.1, 0.4, 0.3]], "float32")
    for radius, left in ((1.9, 1), (1.99999, 2), (2.0, 2)):
        assert np.count_nonzero(L0(1).with_epsilon(radius).project(x_adv, x)) == left


def test_distance_counts_features_or_pixels():
    x, _ = images(3)
    x_adv = x.copy()
    x_adv[0, 0, 1] += 0.1
    x_adv[1, :, 0, 2] -= 0.2
    np.testing.assert_array_equal(L0(1).distance(x_adv, x), [3, 2, 0])
    np.testing.assert_array_equal(L0(1, per_pixel=True).distance(x_adv, x), [1, 2, 0])


def test_contains_ignores_rounding_and_checks_the_box():
    x, _ = images(4)
    x_adv = np.tile(x * np.float32(1 + 1e-7), (1, 1, 1, 1))
    x_adv[1, 0, 0, 0], x_adv[1, 1, 0, 0] = 0.5, 0.5
    x_adv[2, :, 0, 0], x_adv[2, 0, 1, 0] = 0.5, 0.5
    x_adv[3, 0, 0, 0] = 1.1
    np.testing.assert_array_equal(L0(2).contains(x_adv, x), [True, True, False, False])


def test_steepest_direction_is_one_feature_or_one_pixel():
    gradient = np.zeros((1, *IMAGE), "float32")
    gradient[0, 0, 1], gradient[0, 1, 1] = [0.0, -3.0, 0.0], [2.0, -2.0, 1.0]
    feature, pixel = np.zeros_like(gradient), np.zeros_like(gradient)
    feature[0, 0, 1, 1], pixel[0, 1, 1] = -1.0, [1.0, -1.0, 1.0]
    np.testing.assert_array_equal(L0().steepest_direction(gradient), feature)
    np.testing.assert_array_equal(L0(per_pixel=True).steepest_direction(gradient), pixel)
    np.testing.assert_allclose(L0().dual_norm(gradient), [3.0])
    np.testing.assert_allclose(L0(per_pixel=True).dual_norm(gradient), [5.0])


def test_step_moves_as_many_features_as_its_size_by_ten_widths():
    gradient = np.array([[4.0, -2.0, 1.0]], "float32")
    x = np.full((1, 3), 0.5, "float32")
    box = (-1.0, 1.0)
    for size, least in ((0.3, 4.0), (1.0, 4.0), (1.5, 2.0), (2.0, 2.0), (7.0, 1.0)):
        moved = L0(2, box).step(x, gradient, size)
        np.testing.assert_allclose(moved, x + 20.0 * gradient / least, rtol=1e-6)
    still = L0(2, box).step(x, 0.0 * gradient, 1.0)
    np.testing.assert_array_equal(still, x)


def test_step_reads_the_gradient_of_a_whole_pixel():
    gradient = np.zeros((2, *IMAGE), "float32")
    gradient[:, 0, 1], gradient[:, 1, 1] = [0.0, -3.0, 0.0], [2.0, -2.0, 1.0]
    moved = L0(1, per_pixel=True).step(0.0 * gradient, gradient, np.array([1.0, 2.0]))
    np.testing.assert_allclose(moved[0], 10.0 * gradient[0] / 5.0, rtol=1e-6)
    np.testing.assert_allclose(moved[1], 10.0 * gradient[1] / 3.0, rtol=1e-6)


def test_one_long_step_is_the_best_point_of_a_linear_model():
    # If all features have the same room, those with the largest gradients gain most.
    x = np.full((6, 8), 0.5, "float32")
    gradient = np.random.default_rng(3).normal(size=x.shape).astype("float32")
    ball = L0(3)
    found = ball.project(ball.step(x, gradient, 3.0), x)
    np.testing.assert_array_equal(found, ball.linear_maximization_oracle(gradient, x))


@pytest.mark.parametrize("start", ["random_start", "random_start_on_sphere"])
def test_random_starts_change_random_places_to_random_values(start):
    x = np.full((4000, 2, 2, 2), 0.5, "float32")
    low, high = np.array([0.0, -1.0]), np.array([1.0, 3.0])
    ball = L0(1, (low, high), per_pixel=True)
    found = np.asarray(getattr(ball, start)(x, keras.ops.convert_to_tensor([3, 4])))
    changed = np.any(found != x, axis=-1)
    assert np.all(changed.sum(axis=(1, 2)) == 1)
    np.testing.assert_allclose(changed.mean(axis=0), 0.25, atol=0.03)
    values = found[changed]
    assert np.all(values >= low) and np.all(values <= high)
    np.testing.assert_allclose(values.mean(axis=0), [0.5, 1.0], atol=0.05)
    np.testing.assert_allclose(values.std(axis=0), [12**-0.5, 4 * 12**-0.5], rtol=0.05)
    other = np.asarray(getattr(ball, start)(x, keras.ops.convert_to_tensor([3, 5])))
    assert np.any(other != found)


def test_a_schedule_is_rounded_down():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, end_learning_rate=5.0)
    x, x_adv = np.zeros((1, 6), "float32"), np.full((1, 6), 0.5, "float32")
    for step, count in ((0, 1), (4, 2), (5, 3), (10, 5)):
        assert np.count_nonzero(L0(schedule).at(step).project(x_adv, x)) == count


@pytest.mark.exhaustive
def test_an_attack_stays_within_the_count():
    x, _ = images(6)
    weights = np.random.default_rng(8).normal(size=(12, 3)).astype("float32")

    def model(x):
        return keras.ops.matmul(keras.ops.reshape(x, (-1, 12)), weights)

    y = np.argmax(x.reshape(6, 12) @ weights, axis=-1)
    for attack in (kr.attacks.PGD(num_steps=5), kr.attacks.FGSM()):
        found = attack.run(model, x, y, L0(2, per_pixel=True))
        assert np.all(np.any(found.x_adv != x, axis=-1).sum(axis=(1, 2)) <= 2)
        assert found.success.sum() >= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "must be an int >= 1, or an array of such numbers. Received: epsilon=0"),
        ({"epsilon": "8/255"}, "must be an int >= 1, .*Received: epsilon='8/255'"),
        ({"epsilon": [1, 2.5]}, r"must be an int >= 1, .*Received: epsilon=\[1, 2.5\]"),
        ({"bounds": None}, "L0 needs bounds.*Received: bounds=None"),
        ({"per_pixel": 1}, "`per_pixel` must be a bool. Received: 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(L0, message, **arguments)


def test_pixels_need_channels():
    x = np.zeros((2, 4), "float32")
    with refusals.assert_refused(r"an axis of channels .*Received: shape \(2, 4\)"):
        L0(1, per_pixel=True).project(x, x)
