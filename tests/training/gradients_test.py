import keras
import numpy as np
import pytest

from keras_robust.training.gradients import BaseGradientStep
from keras_robust.training.gradients import refuse_assigned
from tests.support import gradient_steps


def test_sums_without_replicas_are_the_tensors():
    tensors = [keras.ops.ones(2), None]
    assert BaseGradientStep(None, None).sum_over_replicas(tensors) is tensors


def test_the_backends_implement_backward_and_apply():
    gradient_step = BaseGradientStep(None, None)
    calls = (lambda: gradient_step.backward(None, None), lambda: gradient_step.apply(None))
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()


def test_refuses_weights_that_a_layer_assigned_by_name():
    refuse_assigned([])
    variable = keras.Variable([1.0], name="own")
    with pytest.raises(ValueError, match="SpectralNormalization.*Received: a model that.* own"):
        refuse_assigned([variable])


def test_outputs_of_an_unused_pass_are_of_training_mode_and_leave_no_trace():
    model, norm = gradient_steps.noisy()
    model.layers[-2].rate = 0.0
    gradient_step = gradient_steps.gradient_step(model)
    clean = gradient_step.backward(gradient_steps.adversarial, gradient_steps.found()).clean
    before = gradient_steps.state(model)
    outputs = np.asarray(gradient_step.outputs_of(clean))
    gradient_steps.assert_same(gradient_steps.state(model), before)
    hidden = np.asarray(model.layers[0](gradient_steps.X))
    scaled = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + norm.epsilon)
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose(outputs, scaled @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_outputs_of_a_pass_that_ran_are_what_they_were():
    model, _ = gradient_steps.noisy()
    gradient_step = gradient_steps.gradient_step(model)
    adversarial = gradient_step.backward(
        gradient_steps.adversarial, gradient_steps.found()
    ).adversarial
    assert gradient_step.outputs_of(adversarial) is adversarial.outputs
