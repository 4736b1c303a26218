import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import several_inputs
from tests.support import tiers
from tests.support.several_inputs import SIZE

L1, L2, Linf, PerInput = kr.L1, kr.L2, kr.Linf, kr.threat_models.PerInput
CHANNELS = (np.array([0.0, -1.0]), np.array([1.0, 0.9]))
FEATURES = np.array([0.05, 0.3, 0.0])
PARTS = {"image": L2(0.6, CHANNELS), "meta": Linf(FEATURES, None), "age": L1(0.4)}
# Norm, radius and box of each part for flattened examples, for the reference.
KNOWN = {
    "image": ("L2", 0.6, tuple(np.tile(bound, 4) for bound in CHANNELS)),
    "meta": ("Linf", FEATURES, None),
    "age": ("L1", 0.4, (0.0, 1.0)),
}


def bound(parts=None, x=None, **arguments):
    """Returns a threat model bound to the inputs, and the matrix that an attack perturbs."""
    x = several_inputs.inputs(0.0, 0.9) if x is None else x
    exposed, _, ball = PerInput(parts or PARTS, **arguments).bind(lambda inputs: inputs, x)
    return ball, np.asarray(exposed)


def moved(x, size=0.5):
    return x + size * np.random.default_rng(5).normal(size=x.shape).astype("float32")


def pieces(x):
    """Returns the columns of each part."""
    return dict(zip(PARTS, np.split(np.asarray(x, "float64"), [8, 11], axis=1), strict=True))


def by_part(function, *matrices):
    """Returns `function(name, *pieces, norm, radius, box)` of all parts, joined."""
    parts = [pieces(matrix) for matrix in matrices]
    found = [function(*(part[name] for part in parts), *KNOWN[name]) for name in PARTS]
    return np.concatenate(found, axis=1)


def test_attacked_inputs_are_concatenated():
    x = several_inputs.inputs()
    ball, exposed = bound(x=x)
    np.testing.assert_array_equal(exposed, several_inputs.joined(x))
    assert exposed.dtype == "float32"
    # The order is that of the parts, whatever the order of the inputs is.
    order = {name: PARTS[name] for name in ("age", "image")}
    _, other = bound(order, x)
    np.testing.assert_array_equal(other[:, :1], x["age"])
    np.testing.assert_array_equal(other[:, 1:], x["image"].reshape(SIZE, 8))


def test_the_model_gets_attacked_inputs_in_their_shape_and_the_rest_unchanged():
    x = {name: leaf for name, leaf in several_inputs.inputs().items()}
    _, classifier, _ = PerInput(PARTS).bind(lambda inputs: inputs, x)
    exposed = np.arange(12 * SIZE, dtype="float32").reshape(SIZE, 12)
    packed = classifier(exposed)
    assert list(packed) == list(x)
    for name in ("token", "city"):
        assert packed[name] is x[name]
    for name, piece in pieces(exposed).items():
        np.testing.assert_array_equal(packed[name], piece.reshape(x[name].shape))


def test_projection_is_that_of_every_part():
    ball, x = bound()
    x_adv = moved(x)
    expected = by_part(numpy_reference.project, x_adv, x)
    assert np.all(np.any(np.abs(expected - x_adv) > 1e-3, axis=1))
    np.testing.assert_allclose(ball.project(x_adv, x), expected, rtol=0, atol=2e-6)


def test_a_step_is_a_share_of_every_radius():
    ball, x = bound()
    gradient = moved(np.zeros_like(x))

    def step(x, g, norm, radius, box):
        return numpy_reference.step(x, g, norm, 0.3 * radius, box)

    expected = by_part(step, x, gradient)
    np.testing.assert_allclose(ball.step(x, gradient, 0.3), expected, rtol=0, atol=1e-6)
    sizes = np.linspace(0.1, 1.0, SIZE).astype("float32")
    found = ball.step(x, gradient, sizes.reshape(SIZE, 1))
    for row, size in enumerate(sizes):
        np.testing.assert_allclose(found[row], ball.step(x, gradient, size)[row], atol=1e-6)


def test_steepest_direction_maximises_over_the_unit_ball():
    ball, _ = bound()
    gradient = np.random.default_rng(4).normal(size=(SIZE, 12)).astype("float32")
    direction = np.asarray(ball.steepest_direction(gradient))
    np.testing.assert_allclose(ball.distance(direction, 0.0 * direction), 1.0, rtol=1e-6)
    parts = pieces(gradient)
    dual = (
        0.6 * np.linalg.norm(parts["image"], axis=1)
        + np.abs(parts["meta"]) @ FEATURES
        + 0.4 * np.abs(parts["age"]).max(axis=1)
    )
    np.testing.assert_allclose(np.sum(gradient * direction, axis=1), dual, rtol=1e-5)
    # Scaling the radius does not change the unit of distance.
    np.testing.assert_array_equal(ball.scaled(0.5).steepest_direction(gradient), direction)


def best_gain(directions, x, factor=1.0):
    """Returns the gain of the best attack on a linear model in float64."""
    gains = []
    for name, piece in pieces(x).items():
        norm, radius, box = KNOWN[name]
        low, high = (-np.inf, np.inf) if box is None else box
        one = linear_model.largest_gain(directions[name], piece, norm, factor * radius, low, high)
        gains.append(one)
    return np.sum(gains, axis=0)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_linear_maximiser_is_the_best_of_every_part(factor):
    directions = several_inputs.directions()
    ball, x = bound(epsilon=factor)
    joined = np.concatenate(list(directions.values()), axis=1).astype("float32")
    found = np.asarray(ball.linear_maximization_oracle(joined, x), "float64")
    gain = np.sum(joined * (found - x), axis=1)
    np.testing.assert_allclose(gain, best_gain(directions, x, factor), rtol=1e-5)


@pytest.mark.exhaustive
def test_attacks_reach_the_best_of_every_part_and_leave_the_rest_unchanged():
    weights = {name: row[0].astype("float32") for name, row in several_inputs.directions().items()}
    x = several_inputs.inputs(0.0, 0.9)
    del x["city"]

    def logits(inputs):
        terms = [
            keras.ops.reshape(inputs[name], (-1, len(row))) @ row[:, None]
            for name, row in weights.items()
        ]
        # The bias keeps class 1 predicted everywhere, because an example that is misclassified from
        # the start is returned unchanged.
        return keras.ops.concatenate([sum(terms) - 99.0, keras.ops.zeros_like(terms[0])], axis=1)

    attack = kr.attacks.PGD(num_steps=30, step_size=0.5, loss="margin")
    found = attack.run(logits, x, np.ones(SIZE, "int32"), PerInput(PARTS), batch_size=4)
    joined = several_inputs.joined(found.x_adv) - several_inputs.joined(x)
    gain = joined.astype("float64") @ np.concatenate(list(weights.values()))
    directions = {name: np.tile(row, (SIZE, 1)) for name, row in weights.items()}
    expected = best_gain(directions, several_inputs.joined(x))
    np.testing.assert_allclose(gain, expected, rtol=1e-3)
    assert list(found.x_adv) == list(x)
    np.testing.assert_array_equal(found.x_adv["token"], x["token"])
    for name, leaf in x.items():
        assert (found.x_adv[name].shape, found.x_adv[name].dtype) == (leaf.shape, leaf.dtype)
    assert np.all(PerInput(PARTS).contains(found.x_adv, x))


def test_random_starts_fill_every_part_with_numbers_of_its_own():
    parts = {"image": Linf(0.3, None), "meta": Linf(0.2, None), "age": L2(0.1, None)}
    x = {name: np.zeros((1000, *shape)) for name, shape in several_inputs.SHAPES.items()}
    ball, exposed = bound(parts, x)
    seed = keras.ops.convert_to_tensor([3, 4])
    start = np.asarray(ball.random_start(exposed, seed))
    # The first part has the same random numbers as on its own.
    np.testing.assert_array_equal(start[:, :8], Linf(0.3, None).random_start(exposed[:, :8], seed))
    for piece, radius in zip(np.split(start, [8, 11], axis=1), (0.3, 0.2, 0.1), strict=True):
        assert 0.95 * radius < np.abs(piece).max() <= radius
    assert np.abs(np.corrcoef(start.T) - np.eye(12)).max() < 0.2
    assert np.all(ball.contains(start, exposed))


def test_random_starts_with_a_seed_for_each_example():
    ball, x = bound()
    seeds = keras.ops.convert_to_tensor([[1, row] for row in range(SIZE)])
    together = ball.random_start(x, seeds)
    alone = ball.random_start(x[2:3], seeds[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=0, atol=1e-6)


def test_distance_is_the_largest_share_of_a_radius():
    ball, x = bound()
    delta = np.zeros((SIZE, 12), "float32")
    delta[0, :2] = [0.18, -0.24]
    delta[1, 8:10] = [0.01, 0.15]
    delta[2, 11] = 0.6
    delta[3] = delta[0] + delta[2]
    # A feature with radius 0 must not change.
    delta[4, 10] = 1e-3
    expected = [0.5, 0.5, 1.5, 1.5, np.inf, 0.0]
    np.testing.assert_allclose(ball.distance(delta, np.zeros_like(delta)), expected, rtol=1e-5)


def test_contains_needs_every_part():
    x = several_inputs.inputs(0.1, 0.85)
    for name, delta in {"image": 0.24, "meta": np.array([0.06, 0, 0]), "age": 0.5}.items():
        x_adv = dict(x)
        x_adv[name] = np.clip(x[name] + delta, -2.0, 2.0)
        assert not np.any(PerInput(PARTS).contains(x_adv, x)), name
    x_adv = {**x, "image": x["image"] + 0.02, "meta": x["meta"] + FEATURES, "token": x["token"] + 1}
    assert np.all(PerInput(PARTS).contains(x_adv, x))


def test_the_factor_scales_every_radius():
    ball, x = bound()
    x_adv = moved(x)
    half = {
        "image": L2(0.3, CHANNELS),
        "meta": Linf(FEATURES / 2, None),
        "age": L1(0.2),
    }
    expected = bound(half)[0].project(x_adv, x)
    for other in (ball.scaled(0.5), ball.with_epsilon(0.5), bound(epsilon=0.5)[0]):
        np.testing.assert_allclose(other.project(x_adv, x), expected, rtol=0, atol=1e-6)
    assert float(ball.radius) == 1.0
    assert float(ball.scaled(0.5).radius) == 0.5


def test_the_factor_may_differ_from_example_to_example():
    factors = np.linspace(0.0, 1.0, SIZE)
    ball, x = bound(epsilon=factors)
    x_adv = moved(x)
    found = ball.project(x_adv, x)
    for row, factor in enumerate(factors):
        expected = bound(epsilon=float(factor))[0].project(x_adv, x)[row]
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="one value per example"):
        PerInput(PARTS, epsilon=factors).check_shape((SIZE + 1, 12))


def test_schedules_in_the_parts_and_in_the_factor():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.4)
    in_part = PerInput({"image": L2(schedule, None), "meta": Linf(0.1, None)})
    in_factor = PerInput({"image": L2(1.0, None), "meta": Linf(0.25, None)}, epsilon=schedule)
    x = {"image": np.zeros((1, 2)), "meta": np.zeros((1, 1))}
    far = np.full((1, 3), 9.0, "float32")
    for ball, meta in ((in_part, 0.1), (in_factor, 0.05)):
        assert ball.is_scheduled
        assert not ball.at(5).is_scheduled
        with pytest.raises(ValueError, match="has a radius only at a training step"):
            ball.radius  # noqa: B018
        _, _, there = ball.at(5).bind(lambda inputs: inputs, x)
        found = there.project(far, np.zeros_like(far))
        np.testing.assert_allclose(found, [[0.02**0.5, 0.02**0.5, meta]], rtol=1e-5)
    assert not PerInput(PARTS).is_scheduled


def test_bounds_are_those_of_the_parts():
    ball, _ = bound()
    low, high = ball.bounds
    np.testing.assert_allclose(low, [0, -1] * 4 + [-np.inf] * 3 + [0], rtol=0)
    np.testing.assert_allclose(high, [1, 0.9] * 4 + [np.inf] * 3 + [1], rtol=1e-6)
    assert ball.without_bounds().bounds is None
    assert bound({"meta": Linf(0.1, None)})[0].bounds is None
    far = np.full((SIZE, 12), 5.0, "float32")
    assert np.asarray(ball.without_bounds().project(far + 0.1, far)).min() >= 5.0


REFUSED = {
    "no part": ({}, "needs the name of an input"),
    "only None": ([None, None], "needs the name of an input"),
    "nested": ({"a": PerInput({"b": "linf"})}, r"hold threat models for one tensor.*PerInput\("),
    "unknown": ({"a": "l3"}, "Unknown threat model"),
    "bare": ({"a": 0.1}, "Unknown threat model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_parts_are_explained(name):
    parts, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        kr.AdvTrain(parts)


X = {"a": np.zeros((3, 2)), "b": np.zeros((3, 1)), "c": {"d": np.zeros((3, 1))}}
MISFITS = {
    "name": ({"z": "linf"}, X, r"names the input 'z'.*Received: inputs \['a', 'b', 'c'\]"),
    "position": ([None, "linf", "linf"], [X["a"], X["b"]], "needs one entry for each input"),
    "names for a list": ({"a": "linf"}, [X["a"], X["b"]], r"input 'a'.*inputs \[0, 1\]"),
    "one input": ({"a": "linf"}, X["a"], "For a model with one input, pass its threat model"),
    "nested": ({"c": "linf"}, X, "one tensor under every name.*under 'c' an object of type dict"),
    "features": ({"a": Linf([0.1, 0.2, 0.3])}, X, r"must broadcast.*shape \(3,\)"),
    "a radius per example": ({"a": L2(np.ones(3))}, X, "one value per example"),
    "a radius per row": ({"a": Linf(np.full((3, 1), 0.1))}, X, "must broadcast"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_do_not_fit_the_inputs_are_explained(name):
    parts, x, message = MISFITS[name]
    with refusals.assert_refused(message):
        PerInput(parts).bind(lambda inputs: inputs, x)


@backends.tensorflow_only("shapes are always known elsewhere")
def test_inputs_of_unknown_shape_are_explained():
    message = r"needs a fixed shape.*input 'a' with examples of shape \(None, 2\)"

    @tf.function(input_signature=[tf.TensorSpec((None, None, 2))])
    def bind(a):
        return PerInput({"a": "linf"}).bind(lambda inputs: inputs, {"a": a})[0]

    with refusals.assert_refused(message):
        bind(np.zeros((1, 3, 2), "float32"))


def test_steps_need_data():
    with pytest.raises(ValueError, match="needs the tensor that `bind` returns.*PerInput"):
        PerInput(PARTS).project(np.zeros((1, 12)), np.zeros((1, 12)))


@tiers.parametrize("where", ["fit", "run"])
@tiers.parametrize(
    ("name", "value", "message"),
    [
        ("a", np.nan, "values of input `a` must be finite"),
        ("a", 1.5, "values of input `a` must lie in the bounds"),
        ("b", np.inf, "values of input `b` must be finite"),
    ],
)
def test_bad_values_name_the_input(name, value, message, where):
    x, y = linear_fit.data()
    x = several_inputs.parted(x)
    x[name][3] = value
    model = several_inputs.parted_model()
    with refusals.assert_refused(message, model):
        if where == "fit":
            linear_fit.fit(model, kr.AdvTrain({"a": "linf"}, attack="fgsm"), x, y)
        else:
            kr.attacks.FGSM().run(model, x, y, PerInput({"a": "linf"}))


@pytest.mark.exhaustive
def test_untouched_inputs_have_no_bounds():
    x, y = linear_fit.data()
    x = several_inputs.parted(x)
    x["b"][3] = 1.5
    model = several_inputs.parted_model()
    linear_fit.fit(model, kr.AdvTrain({"a": "linf"}, attack="fgsm"), x, y)
    kr.attacks.FGSM().run(model, x, y, PerInput({"a": "linf"}))


def test_inputs_of_different_sizes_are_explained():
    x, y = linear_fit.data()
    x = several_inputs.parted(x)
    x["b"] = x["b"][:-1]
    with refusals.assert_refused(r"same number of examples in every input. Received: \[21, 22\]"):
        kr.attacks.FGSM().run(several_inputs.parted_model(), x, y, PerInput({"a": "linf"}))
