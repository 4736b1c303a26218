import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import linear_model
from tests.support import numpy_reference

L1, L2, Linf = kr.threat_models.L1, kr.threat_models.L2, kr.threat_models.Linf
NORMS = (L1, L2, Linf)
SHAPE = (2, 1, 3)
# Radii that bind for some of the points below and not for others.
EPSILON = {"L1": 1.5, "L2": 0.7, "Linf": 0.25}
BOUNDS = {
    "box": (0.0, 1.0),
    "channels": (np.array([0.0, -1.0, 0.2]), np.array([1.0, 0.5, 0.9])),
    "none": None,
}
SCHEDULE = {"initial_learning_rate": 0.1, "decay_steps": 10, "end_learning_rate": 0.3}


def points(bounds, count=8, spread=0.6):
    """Float32 `x` inside the bounds and `x_adv` in and out of ball and box."""
    rng = np.random.default_rng(11)
    low, high = (np.array(0.0), np.array(1.0)) if bounds is None else map(np.asarray, bounds)
    x = low + (high - low) * rng.beta(0.5, 0.5, size=(count, *SHAPE))
    scale = spread * np.linspace(0.05, 2.0, count).reshape(-1, 1, 1, 1)
    x, x_adv = x.astype("float32"), (x + scale * rng.normal(size=x.shape)).astype("float32")
    return (x if bounds is None else np.clip(x, low, high).astype("float32")), x_adv


def rows(x):
    return np.asarray(x, "float64").reshape(len(x), -1)


def row_bounds(bounds):
    """The bounds for flattened examples: the channels are the last axis."""
    if bounds is None:
        return None
    return tuple(np.broadcast_to(bound, SHAPE).reshape(-1) for bound in bounds)


def norm_of(delta, name):
    order = {"L1": 1, "L2": 2, "Linf": np.inf}[name]
    return np.linalg.norm(rows(delta), ord=order, axis=-1)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("cls", NORMS)
def test_projection_is_the_float64_projection(cls, bounds):
    name, box = cls.__name__, BOUNDS[bounds]
    x, x_adv = points(box)
    projected = cls(EPSILON[name], box).project(x_adv, x)
    expected = numpy_reference.project(
        rows(x_adv), rows(x), name, EPSILON[name], row_bounds(box)
    ).reshape(x.shape)
    moved = norm_of(expected - x_adv, name) > 1e-3
    assert moved.any()
    assert not moved.all() or box is not None
    # The radius is met by a sum over 6 float32 coordinates.
    np.testing.assert_allclose(projected, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("cls", NORMS)
def test_projection_with_a_radius_for_each_example(cls):
    name = cls.__name__
    x, x_adv = points(BOUNDS["box"], spread=2.0)
    epsilon = EPSILON[name] * np.linspace(0.0, 1.0, len(x))
    projected = cls(epsilon.reshape(-1, 1, 1, 1)).project(x_adv, x)
    expected = numpy_reference.project(
        rows(x_adv), rows(x), name, epsilon[:, None], row_bounds((0.0, 1.0))
    ).reshape(x.shape)
    np.testing.assert_allclose(projected, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(projected[0], x[0])


@pytest.mark.parametrize("cls", NORMS)
def test_points_inside_are_left_alone(cls):
    x, _ = points((0.0, 1.0))
    noise = (
        np.random.default_rng(0).uniform(-1, 1, x.shape) * 0.9 * EPSILON[cls.__name__] / x[0].size
    )
    x_adv = np.clip(x + noise, 0.0, 1.0).astype("float32")
    np.testing.assert_allclose(cls(EPSILON[cls.__name__]).project(x_adv, x), x_adv, atol=1e-7)


@pytest.mark.parametrize("cls", NORMS)
def test_points_on_the_boundary_are_left_alone(cls):
    name = cls.__name__
    _, delta = points(None)
    delta /= norm_of(delta, name).reshape(-1, 1, 1, 1)
    x = np.zeros_like(delta)
    x_adv = (EPSILON[name] * delta).astype("float32")
    np.testing.assert_allclose(cls(EPSILON[name], None).project(x_adv, x), x_adv, atol=1e-6)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("cls", NORMS)
def test_points_outside_of_the_ball_land_on_its_surface(cls, bounds):
    name, box = cls.__name__, BOUNDS[bounds]
    epsilon = 0.3 * EPSILON[name]
    x, x_adv = points(box, spread=2.0)
    # With room on every side the surface can be reached; the middle of a box has it.
    x = np.full_like(x, 0.35 if bounds == "channels" else 0.5)
    x_adv = x + np.clip(x_adv - 0.5, -0.14, 0.14)
    far = norm_of(x_adv - x, name) > epsilon
    projected = cls(epsilon, box).project(x_adv, x)
    assert far.any()
    np.testing.assert_allclose(norm_of(projected - x, name)[far], epsilon, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("cls", NORMS)
def test_projection_is_feasible_and_idempotent(cls, bounds):
    name, box = cls.__name__, BOUNDS[bounds]
    x, x_adv = points(box, count=64, spread=3.0)
    threat_model = cls(EPSILON[name], box)
    once = threat_model.project(x_adv, x)
    assert norm_of(once - x, name).max() <= EPSILON[name] + 1e-6
    if box is not None:
        assert np.all(once >= np.float32(box[0])) and np.all(once <= np.float32(box[1]))
    np.testing.assert_allclose(threat_model.project(once, x), once, rtol=0, atol=1e-6)
    assert np.all(threat_model.contains(once, x))


@pytest.mark.parametrize("cls", NORMS)
def test_epsilon_zero_allows_the_example_only(cls):
    x, x_adv = points((0.0, 1.0))
    np.testing.assert_array_equal(cls(0.0).project(x_adv, x), x)
    np.testing.assert_array_equal(cls(0.0).random_start(x, tf.constant([1, 2])), x)


@pytest.mark.parametrize("cls", NORMS)
def test_zero_perturbation_is_a_fixed_point(cls):
    x, _ = points((0.0, 1.0))
    np.testing.assert_array_equal(cls(EPSILON[cls.__name__]).project(x, x), x)


@pytest.mark.parametrize("cls", NORMS)
def test_steepest_direction_is_the_maximiser(cls):
    name = cls.__name__
    gradient = np.random.default_rng(2).normal(size=(7, *SHAPE)).astype("float32")
    direction = cls().steepest_direction(gradient)
    dual = {"L1": np.inf, "L2": 2, "Linf": 1}[name]
    largest = np.linalg.norm(rows(gradient), ord=dual, axis=-1)
    np.testing.assert_allclose(norm_of(direction, name), 1.0, rtol=0, atol=1e-6)
    np.testing.assert_allclose((rows(gradient) * rows(direction)).sum(-1), largest, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("cls", NORMS)
def test_steepest_direction_does_not_depend_on_the_size_of_the_gradient(cls, scale):
    gradient = np.random.default_rng(2).normal(size=(3, *SHAPE)).astype("float32")
    expected = cls().steepest_direction(gradient)
    found = cls().steepest_direction(gradient * np.float32(scale))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("cls", NORMS)
def test_a_zero_gradient_moves_nothing(cls):
    x, _ = points((0.0, 1.0))
    gradient = np.random.default_rng(2).normal(size=x.shape).astype("float32")
    gradient[3] = 0.0
    moved = np.asarray(cls().step(x, gradient, 0.1))
    np.testing.assert_array_equal(moved[3], x[3])
    assert np.all(norm_of(np.delete(moved - x, 3, axis=0), cls.__name__) > 0.05)


@pytest.mark.parametrize("cls", NORMS)
def test_a_step_has_the_length_of_the_step_size(cls):
    x, gradient = np.full((3, *SHAPE), 0.5, "float32"), points(None, count=3)[1] - 0.5
    moved = cls(EPSILON[cls.__name__], None).step(x, gradient, 0.2)
    np.testing.assert_allclose(norm_of(moved - x, cls.__name__), 0.2, rtol=0, atol=1e-6)
    assert np.all((rows(moved - x) * rows(gradient)).sum(-1) > 0.0)


@pytest.mark.parametrize("cls", NORMS)
def test_distance_is_the_norm_of_each_example(cls):
    x, x_adv = points(None)
    expected = norm_of(x_adv - x, cls.__name__)
    np.testing.assert_allclose(cls().distance(x_adv, x), expected, rtol=1e-6)


@pytest.mark.parametrize("cls", NORMS)
def test_contains_tells_ball_and_box_apart_for_each_example(cls):
    x = np.full((4, *SHAPE), 0.95, "float32")
    x_adv = x.copy()
    x_adv[1, 0, 0, 0] -= 0.3  # out of the ball, in the box
    x_adv[2, 0, 0, 0] += 0.1  # in the ball, out of the box
    x_adv[3, 0, 0, 0] -= 0.1  # in both
    assert cls(0.2).contains(x_adv, x).numpy().tolist() == [True, False, False, True]
    assert cls(0.2, None).contains(x_adv, x).numpy().tolist() == [True, False, True, True]


@pytest.mark.parametrize("cls", NORMS)
def test_contains_forgives_rounding_only(cls):
    x = np.zeros((1, *SHAPE), "float32")
    x_adv = x.copy()
    x_adv[0, 0, 0, 0] = 0.201
    assert not cls(0.2).contains(x_adv, x)[0]
    assert cls(0.2).contains(x_adv, x, tolerance=1e-2)[0]


@pytest.mark.parametrize("cls", NORMS)
def test_random_start_is_feasible_and_spread_over_the_ball(cls):
    name = cls.__name__
    x, _ = points((0.0, 1.0), count=200)
    start = np.asarray(cls(EPSILON[name]).random_start(x, tf.constant([3, 4])))
    assert norm_of(start - x, name).max() <= EPSILON[name] + 1e-6
    assert start.min() >= 0.0 and start.max() <= 1.0
    assert len(np.unique(start.round(6), axis=0)) == 200


@pytest.mark.parametrize("cls", NORMS)
def test_random_start_scales_with_the_radius_of_each_example(cls):
    x = np.zeros((4, *SHAPE), "float32")
    seed = tf.constant([3, 4])
    unit = np.asarray(cls(1.0, None).random_start(x, seed))
    epsilon = np.array([0.0, 0.1, 0.2, 0.3], "float32").reshape(-1, 1, 1, 1)
    found = cls(epsilon, None).random_start(x, seed)
    np.testing.assert_allclose(found, unit * epsilon, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", NORMS)
def test_random_start_with_seeds_per_example_does_not_depend_on_the_batch(cls):
    threat_model = cls(EPSILON[cls.__name__])
    x, _ = points((0.0, 1.0))
    seeds = tf.constant([[7, index] for index in range(len(x))])
    together = np.asarray(threat_model.random_start(x, seeds))
    apart = [threat_model.random_start(x[i : i + 1], seeds[i : i + 1])[0] for i in range(len(x))]
    np.testing.assert_allclose(together, np.stack(apart), rtol=0, atol=1e-6)
    other = threat_model.random_start(x, seeds + [[1, 0]])
    assert np.all(norm_of(other - together, cls.__name__) > 1e-3)


@pytest.mark.parametrize("cls", NORMS)
def test_random_start_repeats_for_the_same_seed_only(cls):
    threat_model, (x, _) = cls(EPSILON[cls.__name__]), points((0.0, 1.0))
    first = threat_model.random_start(x, tf.constant([1, 2]))
    np.testing.assert_array_equal(threat_model.random_start(x, tf.constant([1, 2])), first)
    for seed in ([1, 3], [2, 2]):
        assert np.abs(threat_model.random_start(x, tf.constant(seed)) - first).max() > 1e-3


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
    assert float(threat_model.at(tf.constant(10)).radius) == pytest.approx(0.3)
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


@pytest.mark.parametrize("factor", [0.25, tf.constant(0.25)])
@pytest.mark.parametrize("cls", NORMS)
def test_scaled_multiplies_the_radius_and_keeps_the_rest(cls, factor):
    threat_model = cls(0.4, (-1.0, 1.0))
    other = threat_model.scaled(factor)
    assert float(other.radius) == pytest.approx(0.1)
    assert (type(other), other.bounds) == (cls, (-1.0, 1.0))
    assert threat_model.epsilon == 0.4
    x, x_adv = points((0.0, 1.0), spread=4.0)
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
    x, x_adv = points((0.0, 0.5), spread=4.0)
    np.testing.assert_array_equal(free.project(x_adv, x), cls(0.4, None).project(x_adv, x))
    assert np.any(np.asarray(free.project(x_adv, x)) > 0.5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("form", ["tensor", "dict", "list"])
def test_expose_gives_the_tensor_and_the_model_as_a_function_of_it(form, dtype):
    x = np.array([[0.0, 1.0], [3.0, 2.0]]).astype(dtype)
    structures = {"tensor": x, "dict": {"image": x}, "list": [x]}

    def model(inputs):
        (leaf,) = keras.tree.flatten(inputs)
        assert type(inputs) is type(keras.tree.map_structure(tf.constant, structures[form]))
        return 2.0 * leaf

    threat_model = Linf(0.1)
    inputs = keras.tree.map_structure(tf.constant, structures[form])
    exposed, classifier, ball = threat_model.expose(model, inputs)
    assert exposed.dtype == "float32"
    np.testing.assert_array_equal(exposed, x)
    np.testing.assert_array_equal(classifier.logits(exposed + 1.0), 2.0 * (x + 1.0))
    assert ball is threat_model


def test_expose_needs_to_be_told_which_of_several_inputs():
    inputs = {"image": np.zeros((2, 3)), "text": np.zeros((2, 3))}
    message = r"The model has several inputs: say which.*Received: inputs \['image', 'text'\]"
    with pytest.raises(ValueError, match=message):
        Linf(0.1).expose(None, inputs)
    with pytest.raises(ValueError, match="Received: inputs 2 tensors"):
        Linf(0.1).expose(None, list(inputs.values()))


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
        ({"epsilon": 0.1, "bounds": (0.0, [1.0, 0.0])}, "low < high. Received: bounds="),
        ({"epsilon": 0.1, "bounds": (0.0, float("nan"))}, "low < high. Received: bounds="),
        ({"epsilon": 0.1, "bounds": 1.0}, r"pair \(low, high\) .*Received: bounds=1.0"),
        ({"epsilon": 0.1, "bounds": (0.0, 0.5, 1.0)}, r"pair \(low, high\) .*Received: bounds="),
    ],
)
def test_bad_arguments_are_named(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
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
    x, x_adv = points(None, count=3)
    x, x_adv = x.reshape(3, -1, 3), x_adv.reshape(3, -1, 3)
    expected = threat_model.at(4).project(x_adv, x)
    np.testing.assert_array_equal(revived.at(4).project(x_adv, x), expected)


@pytest.mark.parametrize("cls", NORMS)
def test_repr_can_be_read(cls):
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
    with pytest.raises(ValueError, match="say of which norm, such as kr.Linf.*Received: "):
        kr.threat_models.get(identifier)


@pytest.mark.parametrize("identifier", ["l3", None, {"epsilon": 0.1}, kr.attacks.PGD])
def test_get_lists_the_known_names(identifier):
    message = "Unknown threat model. Expected one of .*'l1', 'l2', 'linf', .* object of ThreatModel"
    with pytest.raises(ValueError, match=message):
        kr.threat_models.get(identifier)


def test_get_takes_names_that_need_arguments_for_what_they_are():
    with pytest.raises(ValueError, match=r"needs arguments.*pass AtLayer\(layer=..., threat_model"):
        kr.threat_models.get("at_layer")


@pytest.mark.parametrize("cls", [L1, L2])
def test_a_radius_for_each_example_needs_one_for_each(cls):
    x = np.zeros((3, 2), "float32")
    assert cls([0.1, 0.2, 0.3]).radius_of_rows([2, 0], x).tolist() == pytest.approx([0.3, 0.1])
    message = r"one value per example.*Received: epsilon of shape \(2,\) for inputs"
    with pytest.raises(ValueError, match=message):
        cls([0.1, 0.2]).check_fits(x.shape)


@pytest.mark.parametrize("cls", [kr.L1, kr.L2])
def test_an_array_is_one_radius_per_example_in_whole_example_norms(cls):
    threat_model = cls(np.full(30, 0.1), None)
    threat_model.check_fits((30, 4))
    for shape in ((5, 30), (None, 30)):
        with pytest.raises(ValueError, match=r"one value per example.*epsilon of shape \(30,\)"):
            threat_model.check_fits(shape)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("cls", NORMS)
@pytest.mark.parametrize("share", [1.0, 0.1, 20.0])
def test_linear_maximiser_is_the_best_of_the_feasible_points(cls, bounds, share):
    name, box = cls.__name__, BOUNDS[bounds]
    epsilon = 0.15 * share if name == "Linf" else EPSILON[name] * share
    x, _ = points(box)
    direction = np.random.default_rng(13).normal(size=x.shape).astype("float32") ** 3
    threat_model = cls(0.1, box).with_epsilon(epsilon)
    found = threat_model.linear_maximiser(direction, x)
    low, high = (-np.inf, np.inf) if box is None else row_bounds(box)
    expected = linear_model.largest_gain(rows(direction), rows(x), name, epsilon, low, high)
    gained = np.sum(rows(direction) * (rows(found) - rows(x)), axis=-1)
    # What float32 rounds off `x` is up to 6e-8 for each of six coordinates.
    np.testing.assert_allclose(gained, expected, rtol=1e-5, atol=1e-6)
    assert np.all(threat_model.contains(found, x))


@pytest.mark.parametrize("cls", NORMS)
def test_linear_maximiser_has_a_radius_for_each_example(cls):
    x, direction = points((0.0, 1.0), count=3)
    epsilon = np.array([0.05, 0.0, 0.2], "float32").reshape(-1, 1, 1, 1)
    together = cls(epsilon).linear_maximiser(direction, x)
    for i in range(3):
        alone = cls(float(epsilon[i, 0, 0, 0]))
        rows = slice(i, i + 1)
        expected = alone.linear_maximiser(direction[rows], x[rows])[0]
        np.testing.assert_allclose(together[i], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("cls", NORMS)
def test_linear_maximiser_takes_any_length_of_the_direction(cls, scale):
    x, direction = points((0.0, 1.0))
    found = cls(0.1).linear_maximiser(np.float32(scale) * direction, x)
    expected = cls(0.1).linear_maximiser(direction, x) if scale else x
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
