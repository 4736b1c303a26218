import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust.objectives.noise import with_noise
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals

LogitSqueezing = kr.objectives.LogitSqueezing


def _loss(objective, model=None, **arguments):
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


def _paper(weight, sample_weight=None, scale=1.0):
    z = scale * numpy_reference.logits(forward_passes.X_ADV.astype("float64"))
    norms = np.sqrt(np.sum(z**2, axis=-1))
    return forward_passes.mean(forward_passes.cross_entropy(z) + weight * norms, sample_weight)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(weight, sample_weight):
    found = _loss(LogitSqueezing(weight), sample_weight=sample_weight)
    assert found == pytest.approx(_paper(weight, sample_weight), rel=1e-5)


def test_default_weight_and_noise():
    assert _loss(LogitSqueezing()) == pytest.approx(_paper(0.05), rel=1e-5)
    batch = forward_passes.batch()
    found = LogitSqueezing().perturb(None, None, batch)
    np.testing.assert_array_equal(found.x_adv, with_noise(batch, 0.5))


def test_a_scheduled_weight_is_read_at_the_step():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 2.0)
    assert _loss(LogitSqueezing(schedule), iteration=5) == pytest.approx(_paper(1.5), rel=1e-5)


def test_the_gradient_is_that_of_the_equation():
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return LogitSqueezing(2.0).loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    # The derivative along the weights of the last layer scales all logits by one factor.
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))
    expected = forward_passes.slope(lambda scale: _paper(2.0, scale=scale))
    assert found == pytest.approx(expected, rel=1e-4)


def test_logits_of_zero_have_a_finite_gradient():
    model = forward_passes.model()
    model.layers[-1].set_weights([np.zeros((8, 3)), np.zeros(3)])

    def compute():
        return LogitSqueezing().loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, model.trainable_weights)
    assert float(loss) == pytest.approx(np.log(3.0), rel=1e-5)
    for gradient in slopes:
        assert np.all(np.isfinite(gradient))


def test_a_single_logit_is_squeezed_by_its_size():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].set_weights([np.array([[3.0], [-1.0]], "float32")])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    x = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
    arguments = {"x": x, "x_adv": x, "y": np.array([[1.0], [0.0]], "float32")}
    without, squeezed = (_loss(LogitSqueezing(w), model, **arguments) for w in (0.0, 1.0))
    assert squeezed - without == pytest.approx((3.0 + 1.0) / 2, rel=1e-5)


def test_noise_is_that_of_the_batch_and_no_attack_runs():
    batch = forward_passes.batch(ball=kr.Linf(0.1, None))
    found = LogitSqueezing(noise_stddev=0.2).perturb("no attack", None, batch)
    noise = np.asarray(backend.normal(forward_passes.X.shape, batch.seed))
    np.testing.assert_allclose(found.x_adv, forward_passes.X + 0.2 * noise, rtol=1e-6)
    assert not LogitSqueezing.runs_attack
    assert not np.any(found.zero_gradient)


def test_only_the_noisy_examples_are_run():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    clean, adversarial = forward_passes.forward_passes(model)
    LogitSqueezing().loss(clean, adversarial)
    assert not clean.was_used
    np.testing.assert_allclose(norm.moving_mean, 0.1 * forward_passes.X_ADV.mean(0), rtol=1e-5)


def test_regularisers_count_once():
    with_penalty = _loss(LogitSqueezing(), forward_passes.model(penalty=0.1))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - _loss(LogitSqueezing()) == pytest.approx(penalty, rel=1e-5)


@pytest.mark.parametrize("name", ["weight", "noise_stddev"])
def test_wrong_arguments(name):
    refusals.assert_argument_refused(
        LogitSqueezing, f"`{name}` must be a number from 0.*Received: {name}=-0.1", **{name: -0.1}
    )
