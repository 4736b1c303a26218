import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import teachers
from tests.support import tiers

TEMPERATURES = (5.0, 1.0, 20.0)


def _loss(temperature=5.0, penalty=0.0, **arguments):
    objective = kr.objectives.DefensiveDistillation(teachers.model(), temperature)
    return float(
        objective.loss(*forward_passes.forward_passes(forward_passes.model(penalty), **arguments))
    )


def _paper(temperature=5.0, scale=1.0, sample_weight=None):
    """The second training, with the last layer of the student scaled."""
    teacher = teachers.logits(forward_passes.X) / temperature
    student = scale * numpy_reference.logits(forward_passes.X.astype("float64")) / temperature
    terms = temperature**2 * forward_passes.kl_divergence(teacher, student)
    return forward_passes.mean(terms, sample_weight)


@tiers.parametrize("temperature", TEMPERATURES)
@tiers.parametrize("sample_weight", [forward_passes.SAMPLE_WEIGHT, None])
def test_is_the_scaled_divergence_from_the_teacher(temperature, sample_weight):
    expected = _paper(temperature, sample_weight=sample_weight)
    assert _loss(temperature, sample_weight=sample_weight) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_has_the_gradient_of_a_cross_entropy_with_soft_labels(temperature):
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights
    objective = kr.objectives.DefensiveDistillation(teachers.model(), temperature)

    def compute():
        return objective.loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))

    def cross_entropy(scale):
        soft = np.exp(forward_passes.log_softmax(teachers.logits(forward_passes.X) / temperature))
        z = scale * numpy_reference.logits(forward_passes.X.astype("float64")) / temperature
        return -np.mean(np.sum(soft * forward_passes.log_softmax(z), axis=-1))

    assert found == pytest.approx(temperature**2 * forward_passes.slope(cross_entropy), rel=1e-3)
    assert found == pytest.approx(forward_passes.slope(lambda s: _paper(temperature, s)), rel=1e-3)


def test_default_temperature():
    found = kr.objectives.DefensiveDistillation(teachers.model())
    loss = float(found.loss(*forward_passes.forward_passes(forward_passes.model())))
    assert loss == pytest.approx(_paper(20.0), rel=1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_is_the_loss_of_keras(temperature):
    theirs = keras.distillation.LogitsDistillation(temperature, keras.losses.KLDivergence())
    expected = theirs.compute_loss(
        teachers.model()(forward_passes.X), forward_passes.model()(forward_passes.X)
    )
    assert _loss(temperature) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.exhaustive
def test_trains_as_the_distiller_of_keras_does():
    ours, theirs = forward_passes.model(), forward_passes.model()
    teacher = teachers.model()
    objective = kr.objectives.DefensiveDistillation(teacher, 5.0)
    feed = {"batch_size": 2, "epochs": 3, "shuffle": False, "verbose": 0}
    ours.compile(keras.optimizers.SGD(0.02), ours.loss)
    ours.fit(
        forward_passes.X, forward_passes.Y, callbacks=[kr.AdvTrain(objective=objective)], **feed
    )
    soft = keras.distillation.LogitsDistillation(5.0, keras.losses.KLDivergence())
    distiller = keras.distillation.Distiller(teacher, theirs, soft, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.02), ours.loss)
    distiller.fit(forward_passes.X, forward_passes.Y, **feed)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    start = forward_passes.model().get_weights()
    assert np.max(np.abs(ours.get_weights()[0] - start[0])) > 1e-2


def test_labels_and_adversarial_examples_do_not_count():
    expected = _loss()
    assert _loss(y=np.array([-1, 1, -1, 0])) == expected
    assert _loss(x_adv=1.0 - forward_passes.X) == expected
    objective = kr.objectives.DefensiveDistillation(teachers.model())
    assert objective.takes_unlabelled and not objective.runs_attack
    found = objective.perturb(None, None, forward_passes.batch())
    np.testing.assert_array_equal(found.x_adv, forward_passes.X)


def test_regularisers_count_once():
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert _loss(penalty=0.1) - _loss() == pytest.approx(penalty, rel=1e-4)


def test_batch_norm_sees_one_clean_pass():
    found = teachers.moving_mean(kr.objectives.DefensiveDistillation(teachers.model()))
    np.testing.assert_allclose(found, 0.1 * forward_passes.X.mean(0), rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -2.0, "20", None])
def test_wrong_temperatures(temperature):
    with refusals.assert_refused("`temperature` must be a number above 0.*Received: temp"):
        kr.objectives.DefensiveDistillation(teachers.model(), temperature)
