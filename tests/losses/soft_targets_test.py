import keras
import numpy as np
import pytest
from scipy import special

import keras_robust as kr
from keras_robust import losses
from tests.support import gradients
from tests.support import refusals

RNG = np.random.default_rng(1)
TEACHER = 3.0 * RNG.normal(size=(5, 4)).astype("float32")
STUDENT = 3.0 * RNG.normal(size=(5, 4)).astype("float32")


def _expected(temperature):
    p, q = (special.softmax(z.astype("float64") / temperature, -1) for z in (TEACHER, STUDENT))
    return temperature**2 * special.rel_entr(p, q).sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 7.0, 20.0, 100.0])
def test_is_the_scaled_relative_entropy_of_scipy(temperature):
    found = losses.soft_targets(TEACHER, STUDENT, temperature)
    np.testing.assert_allclose(
        found, _expected(temperature), rtol=2e-3 if temperature > 50 else 1e-4
    )


def test_at_temperature_one_it_is_the_divergence():
    found = losses.soft_targets(TEACHER, STUDENT, 1.0)
    np.testing.assert_array_equal(found, losses.kl_divergence(TEACHER, STUDENT))


@pytest.mark.parametrize("temperature", [2.0, 20.0])
def test_gradient(temperature):
    student = keras.ops.convert_to_tensor(STUDENT)

    def compute(student):
        return losses.soft_targets(TEACHER, student, temperature)

    values, slopes = gradients.of(compute, student)
    p, q = (special.softmax(z.astype("float64") / temperature, -1) for z in (TEACHER, STUDENT))
    # T^2 (q - p) / T.
    np.testing.assert_allclose(slopes, temperature * (q - p), atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_is_the_distillation_loss_of_keras(temperature):
    keras_loss = keras.distillation.LogitsDistillation(temperature, keras.losses.KLDivergence())
    found = kr.losses.SoftTargets(temperature)(TEACHER, STUDENT)
    assert float(found) == pytest.approx(float(keras_loss.compute_loss(TEACHER, STUDENT)), rel=1e-4)


def test_probabilities_are_not_clipped_as_those_of_keras_are():
    teacher, student = (np.array([[z, -z]], "float32") for z in (100.0, -100.0))
    np.testing.assert_allclose(losses.soft_targets(teacher, student, 1.0), [200.0], rtol=1e-6)
    clipped = keras.distillation.LogitsDistillation(1.0, keras.losses.KLDivergence())
    assert float(clipped.compute_loss(teacher, student)) < 20.0


def test_loss_class_is_the_weighted_mean():
    loss, each = kr.losses.SoftTargets(7.0), _expected(7.0)
    assert float(loss(TEACHER, STUDENT)) == pytest.approx(each.mean(), rel=1e-4)
    weight = np.array([2.0, 0.0, 1.0, 0.0, 0.5], "float32")
    assert float(loss(TEACHER, STUDENT, weight)) == pytest.approx((weight * each).mean(), rel=1e-4)


def test_loss_class_reduction_and_config():
    loss = kr.losses.SoftTargets(7.0, reduction="none", name="soft")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is kr.losses.SoftTargets
    assert revived.get_config() == loss.get_config()
    np.testing.assert_allclose(revived(TEACHER, STUDENT), _expected(7.0), rtol=1e-4)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "20", None, True])
@pytest.mark.parametrize("cls", [kr.losses.SoftTargets, kr.losses.TemperatureCrossEntropy])
def test_wrong_temperatures(cls, temperature):
    refusals.assert_argument_refused(
        cls, "must be a number above 0.*Received: temperature=", temperature=temperature
    )
