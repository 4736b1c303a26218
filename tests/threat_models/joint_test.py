import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import several_inputs
from tests.support.several_inputs import SIZE

Joint = kr.threat_models.Joint
NAMES = list(several_inputs.SHAPES)
EPSILON = {"Linf": 0.15, "L2": 0.6, "L1": 0.9}
# One box for all inputs, or one per input: some with channels, some without bounds.
BOXES = {
    "one": ((0.0, 1.0), None, ((0.0, 1.0),) * 3),
    "none": (None, None, (None,) * 3),
    "own": (
        (0.0, 1.0),
        [(np.array([0.0, -1.0]), np.array([1.0, 0.9])), None, (0.0, 2.0)],
        ((np.array([0.0, -1.0] * 4), np.array([1.0, 0.9] * 4)), None, (0.0, 2.0)),
    ),
}


def joint(norm, box):
    """Returns a joint threat model, its data, and the box of the matrix."""
    common, own, known = BOXES[box]
    wholly = Joint(getattr(kr, norm)(EPSILON[norm], common), NAMES, own)
    x = several_inputs.inputs(0.0, 0.9)
    exposed, _, ball = wholly.bind(lambda inputs: inputs, x)
    sides = []
    for side, infinite in enumerate((-np.inf, np.inf)):
        parts = [infinite if pair is None else pair[side] for pair in known]
        sizes = [part.shape[-1] for part in np.split(exposed, [8, 11], axis=1)]
        sides.append(np.concatenate([np.full(n, one) for n, one in zip(sizes, parts, strict=True)]))
    return ball, np.asarray(exposed), tuple(sides)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("norm", EPSILON)
def test_projection_is_that_of_the_concatenation(norm, box):
    ball, x, bounds = joint(norm, box)
    x_adv = x + 0.5 * np.random.default_rng(5).normal(size=x.shape).astype("float32")
    expected = numpy_reference.project(
        x_adv.astype("float64"), x.astype("float64"), norm, EPSILON[norm], bounds
    )
    np.testing.assert_allclose(ball.project(x_adv, x), expected, rtol=0, atol=2e-6)
    assert np.all(ball.contains(expected.astype("float32"), x))
    assert not np.any(ball.contains(x_adv, x))


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("norm", EPSILON)
def test_linear_maximiser_is_that_of_the_concatenation(norm, box):
    ball, x, bounds = joint(norm, box)
    directions = np.concatenate(list(several_inputs.directions().values()), axis=1)
    found = np.asarray(ball.linear_maximization_oracle(directions.astype("float32"), x), "float64")
    expected = linear_model.largest_gain(directions, x, norm, EPSILON[norm], *bounds)
    np.testing.assert_allclose(np.sum(directions * (found - x), axis=1), expected, rtol=1e-5)


def test_the_budget_goes_to_the_inputs_in_the_ratio_of_their_gradients():
    # In L2 without a box the best step is epsilon * w / ||w||, here (3, 0, 4) / 5 * 0.1.
    x = {"a": np.full((1, 2), 0.5), "word": np.array([[3]]), "b": np.full((1, 1), 0.5)}

    def logits(inputs):
        a, b = inputs["a"], inputs["b"]
        return np.array([[-1.0, 1.0]], "float32") * (3.0 * a[:, :1] + 4.0 * b)

    x_adv = kr.attacks.FGSM()(logits, x, np.array([1]), Joint("l2", ["b", "a"]).with_epsilon(0.1))
    np.testing.assert_allclose(x_adv["a"], [[0.44, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(x_adv["b"], [[0.42]], rtol=1e-6)
    np.testing.assert_array_equal(x_adv["word"], x["word"])
    assert np.all(Joint(kr.L2(0.1), ["a", "b"]).contains(x_adv, x))
    assert not np.any(Joint(kr.L2(0.09), ["a", "b"]).contains(x_adv, x))


def test_other_methods_are_those_of_the_wrapped_threat_model():
    x = several_inputs.inputs()
    ball, exposed = Joint("linf", NAMES), several_inputs.joined(x)
    _, _, there = ball.bind(lambda inputs: inputs, x)
    gradient = exposed - 0.5
    inner = kr.Linf()
    np.testing.assert_array_equal(
        there.random_start(exposed, np.array([1, 2])), inner.random_start(exposed, np.array([1, 2]))
    )
    np.testing.assert_array_equal(
        there.step(exposed, gradient, 0.1), inner.step(exposed, gradient, 0.1)
    )
    np.testing.assert_array_equal(there.steepest_direction(gradient), np.sign(gradient))
    np.testing.assert_allclose(there.distance(exposed + 0.1, exposed), 0.1, rtol=1e-5)
    free = there.without_bounds()
    assert free.bounds is None
    np.testing.assert_allclose(free.project(exposed + 2.0, exposed), exposed + 8 / 255, rtol=1e-6)


def test_without_bounds_every_input_is_free():
    x = {"a": np.zeros((1, 1)), "b": np.zeros((1, 1))}
    ball = Joint("linf", ["a", "b"], [(0, 1), (0, 2)]).without_bounds()
    assert ball.bind(lambda inputs: inputs, x)[2].bounds is None
    assert ball.get_config()["bounds"] is None


@pytest.mark.exhaustive
def test_radii_of_single_features():
    x, y = linear_fit.data()
    features = np.array([0.1, 0.05, 0.0, 0.2])
    model = several_inputs.parted_model()
    callback = kr.AdvTrain(Joint(kr.Linf(features), ["a", "b"]), attack="fgsm", warmup=0)
    linear_fit.fit(model, callback, several_inputs.parted(x), y)
    expected, _ = linear_fit.expected(x, y, epsilon=lambda step: features)
    np.testing.assert_allclose(linear_fit.weights(model), expected, rtol=0, atol=2e-5)


@backends.with_and_without_xla
def test_training_is_that_of_a_model_with_one_input(jit_compile):
    x, y = linear_fit.data()
    trained = []
    for model, ball, data in (
        (several_inputs.parted_model, Joint(kr.L2(0.3), ["a", "b"]), several_inputs.parted(x)),
        (linear_fit.make_model, kr.L2(0.3), x),
    ):
        model = model(jit_compile=jit_compile)
        callback = kr.AdvTrain(ball, attack="fgsm", objective="mixed")
        linear_fit.fit(model, callback, data, y, sample_weight=np.linspace(0.0, 2.0, len(x)))
        trained.append(linear_fit.weights(model))
    np.testing.assert_allclose(*trained, rtol=0, atol=1e-5)
    assert np.abs(trained[0] - linear_fit.initial_weights()).max() > 0.01


@pytest.mark.exhaustive
def test_evaluation_is_that_of_a_model_with_one_input():
    x, _ = linear_fit.data()
    y = np.argmax(x @ linear_fit.initial_weights(), axis=-1)
    attack = kr.attacks.PGD(num_steps=3, random_start=False)
    ball = Joint(kr.L2(0.2), ["a", "b"])
    data = (several_inputs.parted(x), y)
    parted = kr.evaluate(several_inputs.parted_model(), data, ball, attack)
    single = kr.evaluate(linear_fit.make_model(), (x, y), kr.L2(0.2), attack, minimum_norm=None)
    assert parted.robust_accuracy == single.robust_accuracy < single.clean_accuracy
    np.testing.assert_allclose(parted.adv_logits, single.adv_logits, rtol=0, atol=1e-5)


REFUSED = {
    "no inputs": ({"inputs": []}, "must list different names"),
    "a name": ({"inputs": "ab"}, "must list different names.*Received: inputs='ab'"),
    "one name twice": ({"inputs": ["a", "a"]}, "must list different names"),
    "bounds": ({"bounds": [None]}, r"one entry for each.*Received: 1 entries for .*\['a', 'b'\]"),
    "order": ({"bounds": [None, (1, 0)]}, "low < high"),
    "nested": ({"threat_model": Joint("l2", ["a"])}, r"for one tensor.*Received: Joint\("),
    "examples": ({"threat_model": kr.L2(np.ones(4))}, "one value per example"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_are_explained(name):
    change, message = REFUSED[name]
    with refusals.assert_refused(message):
        Joint(**{"threat_model": "l2", "inputs": ["a", "b"], **change})


@pytest.mark.parametrize(
    ("ball", "message"),
    [
        (Joint("l2", ["a", "z"]), r"names the input 'z'.*Received: inputs \['a', 'b'\]"),
        (
            Joint(kr.Linf(np.ones(4) / 9), ["a", "b"]),
            r"must broadcast.*inputs of shape \(None, 3\)",
        ),
    ],
)
def test_threat_models_that_do_not_fit_the_inputs_are_explained(ball, message):
    x = {"a": np.zeros((SIZE, 2)), "b": np.zeros((SIZE, 1))}
    for use in (ball.bind, ball.map_inputs):
        with refusals.assert_refused(message):
            use(lambda *given: given[0], x)


def test_bounds_are_checked_input_by_input():
    x = {"a": np.full((2, 1), 0.5), "b": np.full((2, 1), 1.5)}
    ball = Joint("linf", ["a", "b"], [(0, 1), (0, 2)])
    kr.attacks.FGSM()(
        lambda inputs: inputs["a"] @ np.array([[1.0, -1.0]], "float32"), x, np.array([0, 0]), ball
    )
    with pytest.raises(ValueError, match="values of input `b` must lie in the bounds"):
        kr.attacks.FGSM()(lambda inputs: inputs["a"], x, None, Joint("linf", ["a", "b"]))
