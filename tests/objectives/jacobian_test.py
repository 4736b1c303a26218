import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import double_backprop
from tests.support import forward_passes
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

Jacobian = kr.objectives.Jacobian
X = forward_passes.X.astype("float64")


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


def _half_squares(weights=double_backprop.WEIGHTS):
    return 0.5 * np.sum(double_backprop.forward(weights, X)[1] ** 2, axis=(1, 2))


@tiers.parametrize("num_projections", [3, 4])
@tiers.parametrize("sample_weight", [forward_passes.SAMPLE_WEIGHT, None])
@tiers.parametrize(
    ("objective", "x"), [("adversarial", forward_passes.X_ADV), ("clean", forward_passes.X)]
)
def test_is_the_equation_with_a_projection_for_every_class(
    num_projections, sample_weight, objective, x
):
    found = _loss(Jacobian(0.3, objective, num_projections), sample_weight=sample_weight)
    cross_entropy = forward_passes.cross_entropy(numpy_reference.logits(x.astype("float64")))
    expected = forward_passes.mean(cross_entropy + 0.3 * _half_squares(), sample_weight)
    assert found == pytest.approx(expected, rel=1e-5)


def test_defaults():
    assert _loss(Jacobian()) == _loss(Jacobian(0.01, "clean", 1))
    assert _loss(Jacobian()) != _loss(Jacobian(0.01, "clean", 2))
    assert _loss(Jacobian()) != _loss(Jacobian(0.02, "clean", 1))


@pytest.mark.exhaustive
@pytest.mark.parametrize("num_projections", [1, 2])
def test_random_projections_are_right_on_average(num_projections):
    model = forward_passes.model()
    draws = np.stack(
        [
            _penalty(Jacobian(num_projections=num_projections), model, seed=(3, i))
            for i in range(300)
        ]
    )
    error = draws.std(axis=0) / np.sqrt(len(draws))
    expected = _half_squares()
    assert np.all(error < 0.06 * expected)
    assert np.all(np.abs(draws.mean(axis=0) - expected) < 3.5 * error)


@pytest.mark.exhaustive
def test_more_projections_scatter_less():
    model = forward_passes.model()
    scatter = [
        np.std([_penalty(Jacobian(num_projections=n), model, seed=(3, i)) for i in range(60)], 0)
        for n in (1, 2)
    ]
    ratio = np.mean(scatter[1] / scatter[0])
    assert 0.5 < ratio < 0.9  # Independent ones: the root of 1/2.


def test_every_example_has_projections_of_its_own():
    x = np.repeat(forward_passes.X[:1], 4, axis=0)
    found = _penalty(Jacobian(), x=x)
    assert len(np.unique(np.round(found, 4))) == 4
    exact = _penalty(Jacobian(num_projections=3), x=x)
    np.testing.assert_allclose(exact, np.full(4, _half_squares()[0]), rtol=1e-5)


def test_projections_come_from_the_seed():
    first, again, other = (_penalty(Jacobian(), seed=(1, last)) for last in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert np.all(np.abs(first - other) > 1e-4)


def test_no_label_counts():
    with_labels, without = (_penalty(Jacobian(), y=y) for y in (forward_passes.Y, np.full(4, -1)))
    np.testing.assert_array_equal(with_labels, without)


def test_the_slope_is_that_of_finite_differences():
    model = forward_passes.model()

    def penalty():
        return keras.ops.sum(
            Jacobian(num_projections=3).penalty(*forward_passes.forward_passes(model))
        )

    expected = double_backprop.expected_slope(lambda weights: np.sum(_half_squares(weights)))
    assert double_backprop.slope(penalty, model) == pytest.approx(expected, rel=1e-4)


def test_the_slope_of_a_random_projection_is_right_on_average():
    model = forward_passes.model()
    x = np.repeat(forward_passes.X, 400, axis=0)
    y = np.repeat(forward_passes.Y, 400)

    def penalty():
        return (
            keras.ops.sum(Jacobian().penalty(*forward_passes.forward_passes(model, x=x, y=y)))
            / 400.0
        )

    expected = double_backprop.expected_slope(lambda weights: np.sum(_half_squares(weights)))
    assert double_backprop.slope(penalty, model) == pytest.approx(expected, rel=0.1)


def test_a_linear_model_has_a_closed_form():
    weights = np.random.default_rng(1).normal(size=(2, 4))
    layers = [keras.Input((2,)), keras.layers.Dense(4), keras.layers.Softmax()]
    model = keras.Sequential(layers)
    model.layers[0].set_weights([weights, np.zeros(4)])
    # The Jacobian is of the logits, although the model returns probabilities.
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy())
    x = np.array([[0.2, 0.7], [0.9, 0.1]], "float32")
    found = _penalty(Jacobian(num_projections=4), model, x=x, y=np.array([1, 0]))
    np.testing.assert_allclose(found, np.full(2, 0.5 * np.sum(weights**2)), rtol=1e-5)


def test_a_single_logit_counts_once():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].set_weights([np.array([[3.0], [-1.0]])])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    arguments = {"x": forward_passes.X[:2, :2], "y": np.array([[1.0], [0.0]], "float32")}
    found = _penalty(Jacobian(num_projections=2), model, **arguments)
    np.testing.assert_allclose(found, [5.0, 5.0], rtol=1e-5)


def test_the_penalty_leaves_batch_norm_and_dropout_still():
    double_backprop.assert_leaves_layers_still(Jacobian(), forward_passes.X)


def test_regularisers_count_once():
    with_penalty = _loss(Jacobian(), forward_passes.model(penalty=0.1))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - _loss(Jacobian()) == pytest.approx(penalty, rel=1e-5)


def test_a_regression_is_refused():
    model = numpy_reference.keras_model()
    model.compile("sgd", "mean_squared_error")
    with refusals.assert_refused("Expected one classification output", model):
        _penalty(Jacobian(), model, y=np.zeros((4, 3), "float32"))


@pytest.mark.parametrize("num_projections", [0, 1.5, "3"])
def test_wrong_number_of_projections(num_projections):
    message = f"must be an int >= 1. Received: num_projections={num_projections!r}"
    refusals.assert_argument_refused(Jacobian, message, num_projections=num_projections)


def test_wrong_weight():
    refusals.assert_argument_refused(
        Jacobian, "`weight` must be a number from 0.*Received: weight=-1", weight=-1
    )
