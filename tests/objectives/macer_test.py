import keras
import numpy as np
import pytest
from scipy import stats

import keras_robust as kr
from keras_robust.objectives import MACER
from keras_robust.objectives.macer import _shortfall
from keras_robust.objectives.noisy_copies import draw_noise
from tests.support import backends
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals

# The reference network has class 0 for all of them.
Y = np.array([0, 0, 1, 0])
STDDEV = 0.3


def _softmax(z):
    return np.exp(forward_passes.log_softmax(z))


def _terms(num_samples, gamma, beta, scale=1.0):
    """Both terms of each example, with the logits scaled, and which examples are in the second."""
    noise = np.asarray(draw_noise(forward_passes.batch(), STDDEV, num_samples), "float64")
    x = np.repeat(forward_passes.X.astype("float64"), num_samples, axis=0) + noise
    z = scale * numpy_reference.logits(x)
    mean, votes = (
        _softmax(size * z).reshape(len(forward_passes.X), num_samples, -1).mean(axis=1)
        for size in (1.0, beta)
    )
    supervised = -np.log(mean[np.arange(4), Y])
    order = np.sort(votes, axis=-1)
    gap = stats.norm.ppf(order[:, -1]) - stats.norm.ppf(order[:, -2])
    counts = (np.argmax(votes, axis=-1) == Y) & (gap <= gamma)
    return supervised, np.where(counts, gamma - gap, 0.0), counts


def _paper(weight=12.0, num_samples=16, gamma=8.0, beta=16.0, sample_weight=None, scale=1.0):
    supervised, shortfall, _ = _terms(num_samples, gamma, beta, scale)
    return forward_passes.mean(supervised + weight * STDDEV / 2 * shortfall, sample_weight)


def _loss(objective, model=None, **arguments):
    arguments = {"y": Y, **arguments}
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"weight": 0.0},
        {"gamma": 4.0},
        {"gamma": 9.0},
        {"num_samples": 3, "gamma": 2.0, "beta": 1.0},
        {"num_samples": 5, "beta": 0.5, "weight": 3.0},
    ],
)
def test_is_the_equation_of_the_paper(arguments, sample_weight):
    found = _loss(MACER(STDDEV, **arguments), sample_weight=sample_weight)
    expected = _paper(sample_weight=sample_weight, **arguments)
    # Float32 has few digits for the difference from a probability of 1.
    assert found == pytest.approx(expected, rel=3e-4)


def test_the_cases_have_examples_of_all_kinds():
    # The random numbers of the backends differ.
    gamma, large, least = (4.0, 0, 2.0) if backends.IS_JAX else (8.0, 1, 5.0)
    _, shortfall, counts = _terms(16, gamma, 16.0)
    # One has a large radius already, and the third is wrong.
    np.testing.assert_array_equal(counts, [place not in (large, 2) for place in range(4)])
    assert np.all(shortfall[counts] > least)
    _, _, counts = _terms(16, 9.0, 16.0)
    np.testing.assert_array_equal(counts, [True, True, False, True])


def test_schedules_are_read_at_the_step():
    schedule = keras.optimizers.schedules.PolynomialDecay
    objective = MACER(schedule(0.0, 10, 2 * STDDEV), weight=schedule(2.0, 10, 8.0))
    assert _loss(objective, iteration=5) == pytest.approx(_paper(weight=5.0), rel=1e-4)
    default = _loss(MACER(weight=5.0))
    assert default == pytest.approx(_loss(MACER(0.25, weight=5.0)))
    assert default != pytest.approx(_loss(MACER(STDDEV, weight=5.0)), rel=1e-3)


def test_the_gradient_is_that_of_both_terms():
    model, arguments = forward_passes.model(), {"num_samples": 4, "beta": 2.0, "weight": 5.0}
    head = model.layers[-1].trainable_weights

    def compute():
        return MACER(STDDEV, **arguments).loss(*forward_passes.forward_passes(model, y=Y))

    slopes = gradients.of(compute, head)[1]
    # The derivative along the weights of the last layer scales all logits by one factor.
    found = sum(np.sum(np.asarray(g) * w) for g, w in zip(slopes, head, strict=True))
    expected = forward_passes.slope(lambda scale: _paper(scale=scale, **arguments))
    assert found == pytest.approx(expected, rel=1e-3)
    alone = forward_passes.slope(lambda scale: _paper(scale=scale, **{**arguments, "weight": 0.0}))
    assert abs(expected - alone) > 0.1


def _hinge(rows, labels, gamma):
    labels = keras.ops.convert_to_tensor(labels)
    values, slopes = gradients.of(
        lambda rows: _shortfall(labels, rows, gamma), np.array(rows, "float32")
    )
    return np.asarray(values), np.asarray(slopes)


def test_the_hinge_and_its_slope():
    rows = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.9, 0.06, 0.04]]
    values, slopes = _hinge(rows, [0, 1, 1, 0], 2.0)
    gap = stats.norm.ppf([0.7, 0.5]) - stats.norm.ppf([0.2, 0.3])
    np.testing.assert_allclose(values, [*(2.0 - gap), 0.0, 0.0], rtol=1e-5)
    own = 1.0 / stats.norm.pdf(stats.norm.ppf([0.7, 0.2]))
    np.testing.assert_allclose(slopes[0], [-own[0], own[1], 0.0], rtol=1e-4)
    assert not np.any(slopes[2:])


@pytest.mark.parametrize("rows", [[1.0, 0.0], [1.0 - 1e-7, 1e-7], [np.nan, np.nan]])
def test_nearly_certain_predictions_have_a_zero_gradient(rows):
    values, slopes = _hinge([rows, [0.5, 0.5]], [0, 0], 8.0)
    assert values[0] == 0.0
    np.testing.assert_array_equal(slopes[0], 0.0)
    # A tie goes to the first class.
    assert values[1] == 8.0
    np.testing.assert_allclose(slopes[1], np.sqrt(2.0 * np.pi) * np.array([-1.0, 1.0]), rtol=1e-5)


def test_confident_predictions_have_a_finite_loss_and_gradient():
    model = forward_passes.model()
    for weight in model.layers[-1].weights:
        weight.assign(1e4 * weight)
    loss, slopes = gradients.of(
        lambda: MACER(STDDEV, 4).loss(*forward_passes.forward_passes(model, y=Y)),
        model.trainable_weights,
    )
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(g)) for g in slopes)


def test_regularisers_count_once():
    with_penalty, without = (
        _loss(MACER(STDDEV), forward_passes.model(size)) for size in (0.1, 0.0)
    )
    expected = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - without == pytest.approx(expected, rel=1e-4)


def test_both_terms_follow_the_reduction_of_the_compiled_loss():
    model = forward_passes.model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model.compile("sgd", loss)
    found = _loss(MACER(STDDEV), model, sample_weight=forward_passes.SAMPLE_WEIGHT)
    assert found == pytest.approx(
        4.0 * _paper(sample_weight=forward_passes.SAMPLE_WEIGHT), rel=1e-4
    )


def test_batch_norm_sees_one_pass_of_all_copies():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((6,)), norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    clean, _ = forward_passes.forward_passes(model)
    MACER(STDDEV, 3).loss(clean, clean)
    noise = np.asarray(draw_noise(clean.batch, STDDEV, 3))
    x = np.repeat(forward_passes.X, 3, axis=0) + noise
    np.testing.assert_allclose(norm.moving_mean, 0.1 * x.mean(axis=0), rtol=1e-4)
    assert not clean.was_used


def test_no_attack_runs_and_examples_stay():
    found = MACER().perturb(None, None, forward_passes.batch())
    np.testing.assert_array_equal(found.x_adv, forward_passes.X)


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_a_fit_trains_what_smoothing_certifies(jit_compile):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(200, 2)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int32")
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=jit_compile)
    callback = kr.AdvTrain(objective=MACER(0.1, 8, weight=1.0))
    history = model.fit(x, y, epochs=8, verbose=0, callbacks=[callback]).history
    assert set(history) == {"accuracy", "loss"}
    assert history["accuracy"][-1] > 0.9
    found = kr.certification.Smoothing(0.1, num_samples=1000).certify(model, x[:60])
    assert np.mean(np.where(found.predictions == y[:60], found.radii, 0.0)) > 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_stddev": -0.1}, "`noise_stddev` must be a number from 0.*Received"),
        ({"num_samples": 0}, "`num_samples` must be an int >= 1. Received: 0"),
        ({"weight": -1.0}, "`weight` must be a number from 0.*Received"),
        ({"gamma": 0.0}, "`gamma` must be a number > 0. Received: 0.0"),
        ({"beta": "16"}, "`beta` must be a number > 0. Received: '16'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(MACER, message, **arguments)


def test_a_model_that_cannot_be_copied_is_refused():
    with pytest.raises(ValueError, match="MACER runs the model on noisy copies"):
        MACER().check(forward_passes.model(), kr.threat_models.AtLayer("dense", kr.L2(1.0, None)))
