import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import teachers


def _loss(temperature=5.0, alpha=1.0, penalty=0.0, **arguments):
    objective = kr.objectives.ARD(teachers.model(), temperature, alpha)
    return float(
        objective.loss(*forward_passes.forward_passes(forward_passes.model(penalty), **arguments))
    )


def _paper(temperature=5.0, alpha=1.0, scale=1.0, sample_weight=None):
    """ARD with the last layer of the student scaled."""
    z, z_adv = (
        scale * numpy_reference.logits(x.astype("float64"))
        for x in (forward_passes.X, forward_passes.X_ADV)
    )
    teacher = teachers.logits(forward_passes.X)
    soft = temperature**2 * forward_passes.kl_divergence(teacher / temperature, z_adv / temperature)
    terms = alpha * soft + (1.0 - alpha) * forward_passes.cross_entropy(z)
    return forward_passes.mean(terms, sample_weight)


@pytest.mark.parametrize("temperature", [1.0, 5.0, 30.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(temperature, alpha, sample_weight):
    expected = _paper(temperature, alpha, sample_weight=sample_weight)
    found = _loss(temperature, alpha, sample_weight=sample_weight)
    assert found == pytest.approx(expected, rel=2e-4)


def test_defaults():
    found = kr.objectives.ARD(teachers.model()).loss(
        *forward_passes.forward_passes(forward_passes.model())
    )
    assert float(found) == pytest.approx(_paper(30.0, 1.0), rel=2e-4)


def test_gradients_flow_through_the_student():
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return kr.objectives.ARD(teachers.model(), 5.0, 0.3).loss(
            *forward_passes.forward_passes(model)
        )

    loss, slopes = gradients.of(compute, head)
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))
    expected = forward_passes.slope(lambda scale: _paper(5.0, 0.3, scale))
    assert found == pytest.approx(expected, rel=1e-3)


def test_alpha_may_be_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [1.0, 0.25])
    for step, alpha in ((0, 1.0), (3, 1.0), (4, 0.25)):
        expected = _paper(alpha=alpha)
        assert _loss(alpha=schedule, iteration=step) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_regularisers_count_once(alpha):
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    found = _loss(alpha=alpha, penalty=0.1) - _loss(alpha=alpha)
    assert found == pytest.approx(penalty, rel=1e-4)


def test_with_alpha_one_labels_do_not_count():
    assert _loss(y=np.array([0, 1, 2, 0])) == _loss()
    assert _loss(alpha=0.5, y=np.array([0, 1, 2, 0])) != _loss(alpha=0.5)


@pytest.mark.parametrize(("alpha", "passes"), [(1.0, 1), (0.3, 2)])
def test_batch_norm_sees_the_adversarial_pass_and_a_clean_one_unless_alpha_is_one(alpha, passes):
    found = teachers.moving_mean(kr.objectives.ARD(teachers.model(), alpha=alpha))
    expected = 0.1 * forward_passes.X_ADV.mean(0)
    if passes == 2:
        expected += 0.9 * 0.1 * forward_passes.X.mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_attack_maximises_the_cross_entropy_of_the_student():
    batch = forward_passes.batch()
    attack = kr.attacks.PGD(num_steps=4)
    classifier = models.Classifier(forward_passes.model())
    found = kr.objectives.ARD(teachers.model()).perturb(attack, classifier, batch)
    usual = attack.clone(loss="cross_entropy").perturb(
        classifier, batch.x, batch.y, batch.threat_model, batch.seed
    )
    np.testing.assert_array_equal(found.x_adv, usual.x_adv)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, "1", None])
def test_wrong_alpha(alpha):
    with refusals.assert_refused("`alpha` must be a number from 0 to 1.*Received: alpha="):
        kr.objectives.ARD(teachers.model(), alpha=alpha)


def test_wrong_temperature():
    with refusals.assert_refused("Received: temperature=0"):
        kr.objectives.ARD(teachers.model(), temperature=0)
