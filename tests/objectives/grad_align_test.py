import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.objectives import grad_align
from tests.support import double_backprop
from tests.support import forward_passes
from tests.support import numpy_reference
from tests.support import refusals

GradAlign = kr.objectives.GradAlign
X = forward_passes.X.astype("float64")
BALL = kr.Linf(0.3)


class Fixed(kr.Linf):
    """Threat model with a fixed random start."""

    def random_start(self, x, seed):
        self.asked = np.asarray(x), np.asarray(seed)
        return keras.ops.convert_to_tensor(forward_passes.X_ADV)


def _loss(objective, model=None, **arguments):
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


def _penalty(objective, model=None, **arguments):
    arguments = {"ball": Fixed(0.3), **arguments}
    return np.asarray(
        objective.penalty(
            *forward_passes.forward_passes(model or forward_passes.model(), **arguments)
        )
    )


def _cosine(weights=double_backprop.WEIGHTS, first=double_backprop.WEIGHTS):
    here = double_backprop.input_gradient(first, X, forward_passes.Y)
    there = double_backprop.input_gradient(
        weights, forward_passes.X_ADV.astype("float64"), forward_passes.Y
    )
    lengths = np.linalg.norm(here, axis=-1) * np.linalg.norm(there, axis=-1)
    return np.sum(here * there, axis=-1) / lengths


@pytest.mark.parametrize("weight", [0.0, 0.8])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
@pytest.mark.parametrize(
    ("objective", "x"), [("adversarial", forward_passes.X_ADV), ("clean", forward_passes.X)]
)
def test_is_the_equation_of_the_paper(weight, sample_weight, objective, x):
    arguments = {"sample_weight": sample_weight, "ball": Fixed(0.3)}
    found = _loss(GradAlign(weight, objective), **arguments)
    cross_entropy = forward_passes.cross_entropy(numpy_reference.logits(x.astype("float64")))
    expected = forward_passes.mean(cross_entropy + weight * (1.0 - _cosine()), sample_weight)
    assert found == pytest.approx(expected, rel=1e-5)


def test_defaults():
    assert _loss(GradAlign()) == _loss(GradAlign(0.2, "adversarial"))
    assert _loss(GradAlign()) != _loss(GradAlign(0.3))
    assert type(kr.AdvTrain(objective="gradalign").attack) is kr.attacks.FGSM


def test_the_neighbour_is_drawn_in_the_ball_around_the_clean_example():
    balls = [Fixed(0.3), Fixed(0.3)]
    for ball, seed in zip(balls, [(1, 2), (1, 3)], strict=True):
        _penalty(GradAlign(), ball=ball, seed=seed)
        np.testing.assert_array_equal(ball.asked[0], forward_passes.X)
    assert np.any(balls[0].asked[1] != balls[1].asked[1])
    # The attack draws from the seed itself, so the same seed would give the same point.
    assert np.any(balls[0].asked[1] != [1, 2])


def test_the_penalty_follows_the_seed_and_the_ball():
    first, again, other, wide = (
        _penalty(GradAlign(), ball=ball, seed=seed)
        for ball, seed in ((BALL, (1, 2)), (BALL, (1, 2)), (BALL, (1, 3)), (kr.Linf(0.5), (1, 2)))
    )
    np.testing.assert_array_equal(first, again)
    for differs in (other, wide):
        assert np.all(np.abs(first - differs) > 1e-5)


def test_gradients_flow_through_the_second_gradient_only():
    model = forward_passes.model()

    def penalty():
        return sum(GradAlign().penalty(*forward_passes.forward_passes(model, ball=Fixed(0.3))))

    expected = double_backprop.expected_slope(lambda weights: np.sum(1.0 - _cosine(weights)))
    both = double_backprop.expected_slope(lambda weights: np.sum(1.0 - _cosine(weights, weights)))
    assert double_backprop.slope(penalty, model) == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(both, rel=1e-2)


def test_a_linear_model_has_a_closed_form():
    # The gradient is W (p - y): three classes turn it, two only change its length.
    for num_classes in (2, 3):
        weights = np.random.default_rng(1).normal(size=(2, num_classes))
        layers = [keras.Input((2,)), keras.layers.Dense(num_classes, use_bias=False)]
        model = keras.Sequential(layers)
        model.layers[0].set_weights([weights])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        x, near = forward_passes.X[:, :2], forward_passes.X_ADV[:, :2]
        y = np.array([0, 1, 1, 0])
        here, there = (
            (np.exp(forward_passes.log_softmax(p @ weights)) - np.eye(num_classes)[y]) @ weights.T
            for p in (x.astype("float64"), near.astype("float64"))
        )
        cosine = np.sum(here * there, -1) / np.linalg.norm(here, axis=-1)
        ball = Fixed(0.3)
        ball.random_start = lambda x, seed, near=near: keras.ops.convert_to_tensor(near)
        found = _penalty(GradAlign(), model, x=x, y=y, ball=ball)
        expected = 1.0 - cosine / np.linalg.norm(there, axis=-1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
        assert np.all(expected < 1e-12) == (num_classes == 2)


def test_examples_with_a_zero_gradient_are_left_out_of_the_mean():
    y = np.array([2, -1, 1, -1])  # Without a label there is no gradient.
    found = _penalty(GradAlign(), y=y)
    np.testing.assert_allclose(found, 2.0 * (1.0 - _cosine()) * [1, 0, 1, 0], rtol=1e-4, atol=1e-6)
    model = forward_passes.model()

    def penalty():
        return sum(GradAlign().penalty(*forward_passes.forward_passes(model, y=y, ball=Fixed(0.3))))

    expected = double_backprop.expected_slope(
        lambda weights: np.sum(2.0 * (1.0 - _cosine(weights))[[0, 2]])
    )
    assert double_backprop.slope(penalty, model) == pytest.approx(expected, rel=1e-4)


def test_without_any_gradient_there_is_no_penalty():
    model = forward_passes.model()
    model.layers[-1].set_weights([np.zeros((8, 3)), np.zeros(3)])
    np.testing.assert_array_equal(_penalty(GradAlign(), model), np.zeros(4))

    def penalty():
        return sum(GradAlign().penalty(*forward_passes.forward_passes(model, ball=Fixed(0.3))))

    assert double_backprop.slope(penalty, model) == 0.0


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_the_cosine_does_not_depend_on_the_length(scale):
    rows = keras.ops.convert_to_tensor(scale * np.array([[[3.0], [-4.0]]]), "float32")
    np.testing.assert_allclose(grad_align._normalise(rows), [[0.6, -0.8]], rtol=1e-6)


def test_the_penalty_leaves_batch_norm_and_dropout_still():
    double_backprop.assert_leaves_layers_still(GradAlign(), forward_passes.X_ADV)


def test_regularisers_count_once():
    with_penalty = _loss(GradAlign(), forward_passes.model(penalty=0.1))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - _loss(GradAlign()) == pytest.approx(penalty, rel=1e-5)


def test_a_scheduled_weight_is_read_at_the_step():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 2.0)
    found = _loss(GradAlign(schedule), iteration=5)
    assert found == pytest.approx(_loss(GradAlign(1.5)), rel=1e-6)


def test_a_regression_is_refused():
    model = numpy_reference.keras_model()
    model.compile("sgd", "mean_squared_error")
    with refusals.assert_refused("Expected one classification output", model):
        _penalty(GradAlign(), model, y=np.zeros((4, 3), "float32"))


def test_wrong_weight():
    refusals.assert_argument_refused(
        GradAlign, "`weight` must be a number from 0.*Received: weight=-1", weight=-1
    )
