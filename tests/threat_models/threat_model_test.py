import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import balls
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

L1, L2, Linf = kr.threat_models.L1, kr.threat_models.L2, kr.threat_models.Linf
NORMS = (L1, L2, Linf)
SCHEDULE = {"initial_learning_rate": 0.1, "decay_steps": 10, "end_learning_rate": 0.3}


@pytest.mark.parametrize("bounds", balls.BOUNDS)
@pytest.mark.parametrize("cls", NORMS)
def test_projection_is_the_float64_projection(cls, bounds):
    name, box = cls.__name__, balls.BOUNDS[bounds]
    x, x_adv = balls.points(box)
    projected = cls(balls.EPSILON[name], box).project(x_adv, x)
    expected = numpy_reference.project(
        balls.rows(x_adv), balls.rows(x), name, balls.EPSILON[name], balls.row_bounds(box)
    ).reshape(x.shape)
    moved = balls.norm_of(expected - x_adv, name) > 1e-3
    assert moved.any()
    assert not moved.all() or box is not None
    # The tolerance is that of a sum over 6 float32 coordinates.
    np.testing.assert_allclose(projected, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("cls", NORMS)
def test_projection_with_a_radius_for_each_example(cls):
    name = cls.__name__
    x, x_adv = balls.points(balls.BOUNDS["box"], spread=2.0)
    epsilon = balls.EPSILON[name] * np.linspace(0.0, 1.0, len(x))
    projected = cls(epsilon.reshape(-1, 1, 1, 1)).project(x_adv, x)
    expected = numpy_reference.project(
        balls.rows(x_adv), balls.rows(x), name, epsilon[:, None], balls.row_bounds((0.0, 1.0))
    ).reshape(x.shape)
    np.testing.assert_allclose(projected, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(projected[0], x[0])


@pytest.mark.parametrize("cls", NORMS)
def test_points_inside_are_unchanged(cls):
    x, _ = balls.points((0.0, 1.0))
    noise = (
        np.random.default_rng(0).uniform(-1, 1, x.shape)
        * 0.9
        * balls.EPSILON[cls.__name__]
        / x[0].size
    )
    x_adv = np.clip(x + noise, 0.0, 1.0).astype("float32")
    np.testing.assert_allclose(cls(balls.EPSILON[cls.__name__]).project(x_adv, x), x_adv, atol=1e-7)


@pytest.mark.parametrize("cls", NORMS)
def test_points_on_the_boundary_are_unchanged(cls):
    name = cls.__name__
    _, delta = balls.points(None)
    delta /= balls.norm_of(delta, name).reshape(-1, 1, 1, 1)
    x = np.zeros_like(delta)
    x_adv = (balls.EPSILON[name] * delta).astype("float32")
    np.testing.assert_allclose(cls(balls.EPSILON[name], None).project(x_adv, x), x_adv, atol=1e-6)


@pytest.mark.parametrize("bounds", balls.BOUNDS)
@pytest.mark.parametrize("cls", NORMS)
def test_points_outside_of_the_ball_land_on_its_surface(cls, bounds):
    name, box = cls.__name__, balls.BOUNDS[bounds]
    epsilon = 0.3 * balls.EPSILON[name]
    x, x_adv = balls.points(box, spread=2.0)
    # In the middle of the box the surface of the ball can be reached in every direction.
    x = np.full_like(x, 0.35 if bounds == "channels" else 0.5)
    x_adv = x + np.clip(x_adv - 0.5, -0.14, 0.14)
    far = balls.norm_of(x_adv - x, name) > epsilon
    projected = cls(epsilon, box).project(x_adv, x)
    assert far.any()
    np.testing.assert_allclose(balls.norm_of(projected - x, name)[far], epsilon, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bounds", balls.BOUNDS)
@pytest.mark.parametrize("cls", NORMS)
def test_projection_is_feasible_and_idempotent(cls, bounds):
    name, box = cls.__name__, balls.BOUNDS[bounds]
    x, x_adv = balls.points(box, count=64, spread=3.0)
    threat_model = cls(balls.EPSILON[name], box)
    once = threat_model.project(x_adv, x)
    assert balls.norm_of(once - x, name).max() <= balls.EPSILON[name] + 1e-6
    if box is not None:
        assert np.all(once >= np.float32(box[0])) and np.all(once <= np.float32(box[1]))
    np.testing.assert_allclose(threat_model.project(once, x), once, rtol=0, atol=1e-6)
    assert np.all(threat_model.contains(once, x))


@pytest.mark.parametrize("cls", NORMS)
def test_epsilon_zero_allows_the_example_only(cls):
    x, x_adv = balls.points((0.0, 1.0))
    np.testing.assert_array_equal(cls(0.0).project(x_adv, x), x)
    np.testing.assert_array_equal(cls(0.0).random_start(x, keras.ops.convert_to_tensor([1, 2])), x)


@pytest.mark.parametrize("cls", NORMS)
def test_zero_perturbation_is_a_fixed_point(cls):
    x, _ = balls.points((0.0, 1.0))
    np.testing.assert_array_equal(cls(balls.EPSILON[cls.__name__]).project(x, x), x)


@pytest.mark.parametrize("cls", NORMS)
def test_steepest_direction_is_the_maximiser(cls):
    name = cls.__name__
    gradient = np.random.default_rng(2).normal(size=(7, *balls.SHAPE)).astype("float32")
    direction = cls().steepest_direction(gradient)
    dual = {"L1": np.inf, "L2": 2, "Linf": 1}[name]
    largest = np.linalg.norm(balls.rows(gradient), ord=dual, axis=-1)
    np.testing.assert_allclose(balls.norm_of(direction, name), 1.0, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        (balls.rows(gradient) * balls.rows(direction)).sum(-1), largest, rtol=1e-6
    )


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("cls", NORMS)
def test_steepest_direction_does_not_depend_on_the_size_of_the_gradient(cls, scale):
    gradient = np.random.default_rng(2).normal(size=(3, *balls.SHAPE)).astype("float32")
    expected = cls().steepest_direction(gradient)
    found = cls().steepest_direction(gradient * np.float32(scale))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("cls", NORMS)
def test_a_zero_gradient_moves_nothing(cls):
    x, _ = balls.points((0.0, 1.0))
    gradient = np.random.default_rng(2).normal(size=x.shape).astype("float32")
    gradient[3] = 0.0
    moved = np.asarray(cls().step(x, gradient, 0.1))
    np.testing.assert_array_equal(moved[3], x[3])
    assert np.all(balls.norm_of(np.delete(moved - x, 3, axis=0), cls.__name__) > 0.05)


@pytest.mark.parametrize("cls", NORMS)
def test_a_step_has_the_length_of_the_step_size(cls):
    x, gradient = np.full((3, *balls.SHAPE), 0.5, "float32"), balls.points(None, count=3)[1] - 0.5
    moved = cls(balls.EPSILON[cls.__name__], None).step(x, gradient, 0.2)
    np.testing.assert_allclose(balls.norm_of(moved - x, cls.__name__), 0.2, rtol=0, atol=1e-6)
    assert np.all((balls.rows(moved - x) * balls.rows(gradient)).sum(-1) > 0.0)


@pytest.mark.parametrize("cls", NORMS)
def test_distance_is_the_norm_of_each_example(cls):
    x, x_adv = balls.points(None)
    expected = balls.norm_of(x_adv - x, cls.__name__)
    np.testing.assert_allclose(cls().distance(x_adv, x), expected, rtol=1e-6)


@pytest.mark.parametrize("cls", NORMS)
def test_contains_checks_ball_and_box_per_example(cls):
    x = np.full((4, *balls.SHAPE), 0.95, "float32")
    x_adv = x.copy()
    x_adv[1, 0, 0, 0] -= 0.3  # out of the ball, in the box
    x_adv[2, 0, 0, 0] += 0.1  # in the ball, out of the box
    x_adv[3, 0, 0, 0] -= 0.1  # in both
    assert np.asarray(cls(0.2).contains(x_adv, x)).tolist() == [True, False, False, True]
    assert np.asarray(cls(0.2, None).contains(x_adv, x)).tolist() == [True, False, True, True]


@pytest.mark.parametrize("cls", NORMS)
def test_contains_forgives_rounding_only(cls):
    x = np.zeros((1, *balls.SHAPE), "float32")
    x_adv = x.copy()
    x_adv[0, 0, 0, 0] = 0.201
    assert not cls(0.2).contains(x_adv, x)[0]
    assert cls(0.2).contains(x_adv, x, tolerance=1e-2)[0]


@pytest.mark.parametrize("cls", NORMS)
def test_random_start_is_feasible_and_spread_over_the_ball(cls):
    name = cls.__name__
    x, _ = balls.points((0.0, 1.0), count=200)
    start = np.asarray(
        cls(balls.EPSILON[name]).random_start(x, keras.ops.convert_to_tensor([3, 4]))
    )
    assert balls.norm_of(start - x, name).max() <= balls.EPSILON[name] + 1e-6
    assert start.min() >= 0.0 and start.max() <= 1.0
    assert len(np.unique(start.round(6), axis=0)) == 200


@pytest.mark.parametrize("cls", NORMS)
def test_random_start_scales_with_the_radius_of_each_example(cls):
    x = np.zeros((4, *balls.SHAPE), "float32")
    seed = keras.ops.convert_to_tensor([3, 4])
    unit = np.asarray(cls(1.0, None).random_start(x, seed))
    epsilon = np.array([0.0, 0.1, 0.2, 0.3], "float32").reshape(-1, 1, 1, 1)
    found = cls(epsilon, None).random_start(x, seed)
    np.testing.assert_allclose(found, unit * epsilon, rtol=0, atol=1e-6)


@tiers.parametrize("cls", NORMS)
def test_random_start_with_seeds_per_example_does_not_depend_on_the_batch(cls):
    threat_model = cls(balls.EPSILON[cls.__name__])
    x, _ = balls.points((0.0, 1.0))
    seeds = keras.ops.convert_to_tensor([[7, index] for index in range(len(x))])
    together = np.asarray(threat_model.random_start(x, seeds))
    apart = [threat_model.random_start(x[i : i + 1], seeds[i : i + 1])[0] for i in range(len(x))]
    np.testing.assert_allclose(together, np.stack(apart), rtol=0, atol=1e-6)
    other = threat_model.random_start(x, seeds + np.array([[1, 0]], "int32"))
    assert np.all(balls.norm_of(other - together, cls.__name__) > 1e-3)


@pytest.mark.parametrize("cls", NORMS)
def test_random_start_repeats_for_the_same_seed_only(cls):
    threat_model, (x, _) = cls(balls.EPSILON[cls.__name__]), balls.points((0.0, 1.0))
    first = threat_model.random_start(x, keras.ops.convert_to_tensor([1, 2]))
    np.testing.assert_array_equal(
        threat_model.random_start(x, keras.ops.convert_to_tensor([1, 2])), first
    )
    for seed in ([1, 3], [2, 2]):
        assert (
            np.abs(threat_model.random_start(x, keras.ops.convert_to_tensor(seed)) - first).max()
            > 1e-3
        )


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(0.25, 0.25), ("1/4", 0.25), (" 1 / 4 ", 0.25), ("0.25", 0.25)]
)
@pytest.mark.parametrize("cls", NORMS)
def test_epsilon_is_a_number_or_a_string(cls, epsilon, expected):
    assert cls(epsilon).epsilon == expected
    assert float(cls(epsilon).radius) == expected


@pytest.mark.parametrize("cls", NORMS)
def test_epsilon_in_a_schedule_is_read_at_a_step(cls):
    schedule = keras.optimizers.schedules.PolynomialDecay(**SCHEDULE)
    threat_model = cls(schedule)
    # Linear from 0.1 to 0.3 over 10 steps.
    assert float(threat_model.at(5).radius) == pytest.approx(0.2)
    assert float(threat_model.at(keras.ops.convert_to_tensor(10)).radius) == pytest.approx(0.3)
    assert threat_model.epsilon is schedule
    with pytest.raises(
        ValueError, match=r"schedule has a radius only at a training step.*at\(step"
    ):
        threat_model.project(np.zeros((1, 2), "float32"), np.zeros((1, 2), "float32"))


@pytest.mark.parametrize("cls", NORMS)
def test_at_is_the_same_object_without_a_schedule(cls):
    threat_model = cls(0.1)
    assert threat_model.at(3) is threat_model


@pytest.mark.parametrize("cls", NORMS)
def test_with_epsilon_is_a_copy(cls):
    first = cls(0.1, (0.0, 2.0))
    second = first.with_epsilon(0.4)
    assert (first.epsilon, second.epsilon, second.bounds) == (0.1, 0.4, (0.0, 2.0))
    assert second.get_config() == {"epsilon": 0.4, "bounds": [0.0, 2.0]}


@tiers.parametrize("factor", [0.25, keras.ops.convert_to_tensor(0.25)])
@tiers.parametrize("cls", NORMS)
def test_scaled_multiplies_the_radius_and_keeps_the_rest(cls, factor):
    threat_model = cls(0.4, (-1.0, 1.0))
    other = threat_model.scaled(factor)
    assert float(other.radius) == pytest.approx(0.1)
    assert (type(other), other.bounds) == (cls, (-1.0, 1.0))
    assert threat_model.epsilon == 0.4
    x, x_adv = balls.points((0.0, 1.0), spread=4.0)
    np.testing.assert_allclose(
        other.project(x_adv, x), cls(0.1, (-1.0, 1.0)).project(x_adv, x), atol=1e-6
    )


def test_scaled_takes_an_array_of_radii():
    np.testing.assert_allclose(Linf([0.1, 0.4]).scaled(0.5).radius, [0.05, 0.2], rtol=1e-6)


def test_scaled_needs_a_radius():
    schedule = keras.optimizers.schedules.PolynomialDecay(**SCHEDULE)
    with pytest.raises(ValueError, match="has a radius only at a training step"):
        Linf(schedule).scaled(0.5)
    assert float(Linf(schedule).at(5).scaled(0.5).radius) == pytest.approx(0.1)


@pytest.mark.parametrize("cls", NORMS)
def test_without_bounds_is_a_copy_without_a_box(cls):
    threat_model = cls(0.4, (0.0, 0.5))
    free = threat_model.without_bounds()
    assert (free.bounds, threat_model.bounds) == (None, (0.0, 0.5))
    assert free.get_config() == {"epsilon": 0.4, "bounds": None}
    x, x_adv = balls.points((0.0, 0.5), spread=4.0)
    np.testing.assert_array_equal(free.project(x_adv, x), cls(0.4, None).project(x_adv, x))
    assert np.any(np.asarray(free.project(x_adv, x)) > 0.5)


@pytest.mark.parametrize("cls", NORMS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -0.1}, "`epsilon` must be finite and not negative. Received: epsilon=-0.1"),
        ({"epsilon": float("nan")}, "must be finite and not negative. Received: epsilon=nan"),
        ({"epsilon": float("inf")}, "must be finite and not negative. Received: epsilon=inf"),
        ({"epsilon": [0.1, -0.2]}, r"must be finite and not negative. Received: .*0.1, -0.2"),
        ({"epsilon": None}, "must be finite and not negative. Received: epsilon=None"),
        ({"epsilon": "eight"}, "a string such as '8/255'.* Received: epsilon='eight'"),
        ({"epsilon": "1/0"}, "a string such as '8/255'.* Received: epsilon='1/0'"),
        ({"epsilon": "-8/255"}, "must be finite and not negative. Received: epsilon='-8/255'"),
        ({"epsilon": 0.1, "bounds": (1.0, 0.0)}, r"low < high. Received: bounds=\(1.0, 0.0\)"),
        ({"epsilon": 0.1, "bounds": (0.0, [1.0, -0.5])}, "low < high, or .*Received: bounds="),
        ({"epsilon": 0.1, "bounds": (0.0, float("nan"))}, "low < high. Received: bounds="),
        ({"epsilon": 0.1, "bounds": 1.0}, r"pair \(low, high\) .*Received: bounds=1.0"),
        ({"epsilon": 0.1, "bounds": (0.0, 0.5, 1.0)}, r"pair \(low, high\) .*Received: bounds="),
    ],
)
def test_bad_arguments_are_named(cls, arguments, message):
    with refusals.assert_refused(message):
        cls(**arguments)


@pytest.mark.parametrize("cls", NORMS)
@pytest.mark.parametrize(
    ("epsilon", "bounds"),
    [
        (0.1, (0.0, 1.0)),
        ("8/255", None),
        (np.array([0.1, 0.2, 0.3], "float32"), ([-1.0, 0.0, 0.0], np.array([1.0, 2.0, 3.0]))),
        (keras.optimizers.schedules.PolynomialDecay(**SCHEDULE), (0.0, 1.0)),
    ],
)
def test_config_survives_json(cls, epsilon, bounds):
    threat_model = cls(epsilon, bounds)
    text = json.dumps(keras.saving.serialize_keras_object(threat_model))
    revived = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(revived) is cls
    assert revived.get_config() == threat_model.get_config()
    x, x_adv = balls.points(None, count=3)
    x, x_adv = x.reshape(3, -1, 3), x_adv.reshape(3, -1, 3)
    expected = threat_model.at(4).project(x_adv, x)
    np.testing.assert_array_equal(revived.at(4).project(x_adv, x), expected)


@pytest.mark.parametrize("cls", NORMS)
def test_repr_shows_the_arguments(cls):
    assert repr(cls("8/255", None)) == f"{cls.__name__}(epsilon='8/255', bounds=None)"


@pytest.mark.parametrize("cls", NORMS)
def test_get_takes_names_configs_classes_and_objects(cls):
    get = kr.threat_models.get
    threat_model = cls(0.1)
    assert get(threat_model) is threat_model
    assert type(get(cls.__name__.upper())) is type(get(cls)) is cls
    assert get(keras.saving.serialize_keras_object(threat_model)).epsilon == 0.1


@pytest.mark.parametrize("identifier", [3, 0.1, "8/255"])
def test_a_radius_alone_is_no_threat_model(identifier):
    with refusals.assert_refused(f"name the norm, such as kr.Linf.*Received: {identifier!r}"):
        kr.threat_models.get(identifier)


@pytest.mark.parametrize("identifier", ["l3", None, {"epsilon": 0.1}, kr.attacks.PGD])
def test_get_lists_the_known_names(identifier):
    message = "Unknown threat model. Expected one of .*'l1', 'l2', 'linf', .* object of ThreatModel"
    with pytest.raises(ValueError, match=message):
        kr.threat_models.get(identifier)


def test_get_explains_names_that_need_arguments():
    with pytest.raises(ValueError, match=r"needs arguments.*pass AtLayer\(layer=..., threat_model"):
        kr.threat_models.get("at_layer")


@pytest.mark.parametrize("cls", [L1, L2])
def test_a_radius_for_each_example_needs_one_for_each(cls):
    x = np.zeros((3, 2), "float32")
    assert cls([0.1, 0.2, 0.3]).epsilon_for_rows([2, 0], x).tolist() == pytest.approx([0.3, 0.1])
    message = r"one value per example.*Received: epsilon of shape \(2,\) for inputs"
    with pytest.raises(ValueError, match=message):
        cls([0.1, 0.2]).check_shape(x.shape)


@pytest.mark.parametrize("cls", [kr.L1, kr.L2])
def test_an_array_is_one_radius_per_example_in_whole_example_norms(cls):
    threat_model = cls(np.full(30, 0.1), None)
    threat_model.check_shape((30, 4))
    for shape in ((5, 30), (None, 30)):
        with refusals.assert_refused(r"one value per example.*epsilon of shape \(30,\)"):
            threat_model.check_shape(shape)
