import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.objectives.input_gradient import cross_entropy_gradient
from tests.support import double_backprop
from tests.support import forward_passes
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

InputGradient = kr.objectives.InputGradient
ORDERS = {"Linf": 1, "L2": 2, "L1": np.inf}  # Of the dual norms.
X = forward_passes.X.astype("float64")
SQUARED = InputGradient(norm="l2_squared")


def _loss(objective, model=None, **arguments):
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


def _penalty(objective, model=None, **arguments):
    return np.asarray(
        objective.penalty(
            *forward_passes.forward_passes(model or forward_passes.model(), **arguments)
        )
    )


def _squares(weights=double_backprop.WEIGHTS):
    return np.sum(double_backprop.input_gradient(weights, X, forward_passes.Y) ** 2, axis=-1)


def _dual(norm, weights=double_backprop.WEIGHTS):
    gradient = double_backprop.input_gradient(weights, X, forward_passes.Y)
    return np.linalg.norm(gradient, ord=ORDERS[norm], axis=-1)


def test_the_gradient_is_that_of_each_example():
    classifier = models.Classifier(forward_passes.model())
    x = keras.ops.convert_to_tensor(forward_passes.X)
    found = cross_entropy_gradient(classifier, x, {"label": forward_passes.Y})
    expected = double_backprop.input_gradient(double_backprop.WEIGHTS, X, forward_passes.Y)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(expected, numpy_reference.gradient(X, forward_passes.Y), rtol=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
@pytest.mark.parametrize(
    ("objective", "x"), [("clean", forward_passes.X), ("adversarial", forward_passes.X_ADV)]
)
def test_is_the_equation_of_the_paper_at_the_clean_examples(weight, sample_weight, objective, x):
    found = _loss(InputGradient(weight, objective, "l2_squared"), sample_weight=sample_weight)
    cross_entropy = forward_passes.cross_entropy(numpy_reference.logits(x.astype("float64")))
    expected = forward_passes.mean(cross_entropy + weight * _squares(), sample_weight)
    assert found == pytest.approx(expected, rel=1e-5)


def test_defaults():
    expected = _loss(InputGradient(1.0, "clean", "dual"))
    assert _loss(InputGradient()) == expected
    assert expected != pytest.approx(_loss(SQUARED), rel=1e-2)


@tiers.parametrize("norm", ORDERS)
@tiers.parametrize("epsilon", [0.1, 0.3])
def test_dual_is_epsilon_times_the_dual_norm(norm, epsilon):
    # Some examples are closer than epsilon to their bounds, which must not matter.
    ball = getattr(kr.threat_models, norm)(epsilon)
    found = _penalty(InputGradient(), ball=ball)
    np.testing.assert_allclose(found, epsilon * _dual(norm), rtol=1e-4)


def test_dual_takes_a_radius_for_each_feature():
    epsilon = np.linspace(0.05, 0.3, numpy_reference.FEATURES)
    found = _penalty(InputGradient(), ball=kr.Linf(epsilon))
    gradient = double_backprop.input_gradient(double_backprop.WEIGHTS, X, forward_passes.Y)
    np.testing.assert_allclose(found, np.sum(epsilon * np.abs(gradient), axis=-1), rtol=1e-4)


def test_dual_grows_with_the_warm_up():
    found = _penalty(InputGradient(), ball=kr.L2(0.4).scaled(0.25))
    np.testing.assert_allclose(found, 0.1 * _dual("L2"), rtol=1e-4)


def test_a_scheduled_weight_is_read_at_the_step():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 2.0)
    found = _loss(InputGradient(schedule), iteration=5)
    assert found == pytest.approx(_loss(InputGradient(1.5)), rel=1e-6)


def test_the_slope_of_the_squares_is_that_of_finite_differences():
    model = forward_passes.model()
    found = double_backprop.slope(lambda: sum(_tensor(SQUARED, model)), model)
    expected = double_backprop.expected_slope(lambda weights: np.sum(_squares(weights)))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("norm", ORDERS)
def test_the_slope_of_a_dual_norm_is_that_of_finite_differences(norm):
    model, ball = forward_passes.model(), getattr(kr.threat_models, norm)(0.2)
    objective = InputGradient()
    found = double_backprop.slope(lambda: sum(_tensor(objective, model, ball=ball)), model)
    expected = double_backprop.expected_slope(lambda weights: 0.2 * np.sum(_dual(norm, weights)))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("norm", ORDERS)
def test_a_zero_gradient_has_a_finite_slope(norm):
    model, ball = forward_passes.model(), getattr(kr.threat_models, norm)(0.2)
    y = np.full(4, -1)
    objective = InputGradient()
    found = double_backprop.slope(lambda: sum(_tensor(objective, model, y=y, ball=ball)), model)
    assert found == 0.0


def _tensor(objective, model, **arguments):
    return objective.penalty(*forward_passes.forward_passes(model, **arguments))


def test_a_linear_model_has_a_closed_form():
    # With two logits (0, z) and z = w x, the gradient is (sigmoid(z) - y) w.
    w = np.array([[1.5], [-2.0]])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].set_weights([w])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    x, y = np.array([[0.2, 0.7], [0.9, 0.1]]), np.array([[1.0], [0.0]])
    arguments = {"x": x.astype("float32"), "y": y.astype("float32")}
    error = np.abs(1.0 / (1.0 + np.exp(-x @ w)) - y)[:, 0]
    found = _penalty(SQUARED, model, **arguments)
    np.testing.assert_allclose(found, error**2 * (1.5**2 + 2.0**2), rtol=1e-5)
    found = _penalty(InputGradient(), model, **arguments, ball=kr.Linf(0.1))
    np.testing.assert_allclose(found, 0.1 * error * (1.5 + 2.0), rtol=1e-5)


def test_the_penalty_leaves_batch_norm_and_dropout_still():
    double_backprop.assert_leaves_layers_still(InputGradient(), forward_passes.X)


def test_images_have_the_squares_of_all_their_pixels():
    x = np.random.default_rng(2).uniform(size=(3, 2, 3, 1)).astype("float32")
    weights = np.random.default_rng(3).normal(size=(6, 3))
    layers = [keras.Input((2, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.layers[-1].set_weights([weights, np.zeros(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = np.array([0, 2, 1])
    p = np.exp(forward_passes.log_softmax(x.reshape(3, 6) @ weights))
    expected = np.sum(((p - np.eye(3)[y]) @ weights.T) ** 2, axis=-1)
    np.testing.assert_allclose(_penalty(SQUARED, model, x=x, y=y), expected, rtol=1e-5)


def test_examples_without_a_label_have_no_penalty():
    found = _penalty(SQUARED, y=np.array([2, -1, 1, -1]))
    np.testing.assert_allclose(found, _squares() * [1, 0, 1, 0], rtol=1e-4)


def test_regularisers_count_once():
    with_penalty = _loss(InputGradient(), forward_passes.model(penalty=0.1))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - _loss(InputGradient()) == pytest.approx(penalty, rel=1e-5)


def test_attack_and_examples_are_those_of_the_objective_within():
    objective = InputGradient(objective="trades")
    assert (objective.default_attack, objective.runs_attack) == ("pgd", True)
    assert not InputGradient().runs_attack
    batch = forward_passes.batch()
    np.testing.assert_array_equal(
        InputGradient().perturb(None, None, batch).x_adv, forward_passes.X
    )


def test_a_regression_is_refused():
    model = numpy_reference.keras_model()
    model.compile("sgd", "mean_squared_error")
    with refusals.assert_refused("Expected one classification output", model):
        _penalty(InputGradient(), model, y=np.zeros((4, 3), "float32"))


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"must be one of .*'dual'.* Received: norm='l1'"):
        InputGradient(norm="l1")
    refusals.assert_argument_refused(
        InputGradient, "`weight` must be a number from 0.*Received: weight=-1", weight=-1
    )
