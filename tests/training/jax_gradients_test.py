import jax
import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from tests.support import forward_passes
from tests.support import gradient_steps

X, X_ADV, Y = forward_passes.X, forward_passes.X_ADV, forward_passes.Y


@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
@pytest.mark.parametrize(
    "loss,shares", [(gradient_steps.mixed, (0.3, 0.7)), (gradient_steps.adversarial, (0.0, 1.0))]
)
def test_loss_and_gradients_of_softmax_regression(loss, shares, sample_weight):
    model, weights = gradient_steps.linear()
    result = gradient_steps.gradient_step(model, sample_weight=sample_weight).backward(
        loss, gradient_steps.found()
    )
    gradient_steps.assert_result(
        result, gradient_steps.softmax_regression(weights, shares, sample_weight)
    )


def test_what_a_pass_leaves_can_be_used_in_the_compiled_code_around_it():
    model, weights = gradient_steps.linear(
        after=[keras.layers.Softmax()], loss="sparse_categorical_crossentropy"
    )

    def run(x_adv):
        gradient_step = gradient_steps.gradient_step(model)
        result = gradient_step.backward(gradient_steps.adversarial, gradient_steps.found(x_adv))
        assert result.adversarial.was_used and not result.clean.was_used
        logits = result.adversarial.logits
        return result.adversarial.outputs, logits, result.input_gradient

    outputs, logits, slope = jax.jit(run)(X_ADV)
    z = X_ADV @ weights[0] + weights[1]
    np.testing.assert_allclose(logits, z, rtol=1e-5)
    np.testing.assert_allclose(outputs, np.exp(forward_passes.log_softmax(z)), rtol=1e-5)
    expected = gradient_steps.softmax_regression(weights, (0.0, 1.0))
    np.testing.assert_allclose(slope, expected[3], atol=1e-6)


@pytest.mark.parametrize("update_state", [False, True])
def test_weights_in_place_of_those_of_the_model(update_state):
    model, (_, bias) = gradient_steps.linear()
    others = [np.cos(np.arange(18.0).reshape(6, 3)), bias + [0.5, 0.0, -1.0]]
    before = model.get_weights()
    result = gradient_steps.gradient_step(model).backward(
        gradient_steps.mixed,
        gradient_steps.found(),
        weights=[other.astype("float32") for other in others],
        update_state=update_state,
    )
    gradient_steps.assert_result(result, gradient_steps.softmax_regression(others, (0.3, 0.7)))
    gradient_steps.assert_same(model.get_weights(), before)


def test_without_keeping_state_statistics_and_seeds_stay():
    model, _ = gradient_steps.noisy()
    before = gradient_steps.state(model)
    trial = gradient_steps.gradient_step(model).backward(
        gradient_steps.mixed, gradient_steps.found(), update_state=False
    )
    gradient_steps.assert_same(gradient_steps.state(model), before)
    # The same seeds drop the same units again.
    real = gradient_steps.gradient_step(model).backward(
        gradient_steps.mixed, gradient_steps.found()
    )
    np.testing.assert_array_equal(trial.loss, real.loss)
    gradient_steps.assert_same(trial.gradients, real.gradients)
    assert any(np.any(a != b) for a, b in zip(gradient_steps.state(model), before, strict=True))


@pytest.mark.parametrize("update_state", [False, True])
def test_a_pass_at_other_weights_keeps_statistics_if_asked_to(update_state):
    model, norm = gradient_steps.noisy()
    others = [np.array(weight) + 0.25 for weight in model.trainable_weights]
    before = np.array(model.trainable_weights[0])
    gradient_steps.gradient_step(model).backward(
        gradient_steps.adversarial,
        gradient_steps.found(),
        weights=others,
        update_state=update_state,
    )
    mean = (X_ADV @ others[0] + others[1]).mean(axis=0)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean * update_state, rtol=1e-5)
    np.testing.assert_array_equal(model.trainable_weights[0], before)


def test_input_gradients_can_be_differentiated_again():
    def penalty(clean, adversarial):
        def loss(x):
            return keras.ops.sum(adversarial.classifier(x) ** 3, axis=-1), ()

        _, gradient = backend.value_and_input_gradient(loss, clean.x)
        return keras.ops.sum(keras.ops.square(gradient))

    model, (kernel, bias) = gradient_steps.linear()

    def expected(kernel):
        gradient = 3.0 * (X.astype("float64") @ kernel + bias) ** 2 @ kernel.T
        return np.sum(gradient**2)

    result = gradient_steps.gradient_step(model).backward(penalty, gradient_steps.found())
    assert float(result.loss) == pytest.approx(expected(kernel), rel=1e-5)
    found = np.sum(result.gradients[0] * kernel)
    assert found == pytest.approx(
        forward_passes.slope(lambda scale: expected(scale * kernel)), rel=1e-4
    )


def test_two_steps_on_one_batch():
    model, weights = gradient_steps.linear()
    gradient_step, first = gradient_steps.gradient_step(model), weights
    for _ in range(2):
        _, of_kernel, of_bias, _ = gradient_steps.softmax_regression(weights, (0.0, 1.0))
        weights = [
            weights[0] - gradient_steps.RATE * of_kernel,
            weights[1] - gradient_steps.RATE * of_bias,
        ]
        result = gradient_step.apply(
            gradient_step.backward(gradient_steps.adversarial, gradient_steps.found())
        )
    for found, wanted in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert int(model.optimizer.iterations) == 2
    # The outputs are those before the first step.
    np.testing.assert_allclose(result.outputs, X @ first[0] + first[1], rtol=1e-5)
    assert not bool(result.logits_mismatch)
    assert bool(result.requirements[0].condition)


def test_a_result_has_the_requirements_of_all_passes_of_its_batch():
    model, _ = gradient_steps.linear(before=[kr.layers.InputGuard((-9.0, 9.0))])
    model.optimizer.build(model.trainable_variables)

    def run(x_adv, broken):
        gradient_step, found = gradient_steps.gradient_step(model), gradient_steps.found(x_adv)
        trial = gradient_step.backward(gradient_steps.mixed, found, update_state=False)
        first = gradient_step.apply(gradient_step.backward(gradient_steps.mixed, found))
        # One for the loss of each backward pass, and one for the outputs.
        assert trial.requirements is None and len(first.requirements) == 3
        result = gradient_step.backward(gradient_steps.mixed, gradient_steps.found(broken))
        second = gradient_step.apply(result)
        return [[one.condition for one in some.requirements] for some in (first, second)]

    for conditions in backend.compile_function(run)(X_ADV, np.full_like(X_ADV, 10.0)):
        assert [bool(one) for one in conditions] == [True, True, True, False]


def test_gradients_are_scaled_and_the_loss_and_the_step_are_not():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(gradient_steps.RATE), initial_scale=64.0
    )
    model, weights = gradient_steps.linear(optimizer)
    optimizer.build(model.trainable_variables)
    loss, of_kernel, of_bias, of_input = gradient_steps.softmax_regression(weights, (0.3, 0.7))
    gradient_step = gradient_steps.gradient_step(model)
    result = gradient_step.backward(gradient_steps.mixed, gradient_steps.found())
    expected = (loss, 64.0 * of_kernel, 64.0 * of_bias, 64.0 * of_input)
    gradient_steps.assert_result(result, expected, rtol=1e-5, atol=1e-4)
    gradient_step.apply(result)
    np.testing.assert_allclose(
        model.layers[-1].kernel, weights[0] - gradient_steps.RATE * of_kernel, atol=1e-6
    )


def test_sums_over_replicas_are_the_tensors():
    tensors = [keras.ops.ones(2), None]
    assert (
        gradient_steps.gradient_step(gradient_steps.linear()[0]).sum_over_replicas(tensors)
        is tensors
    )
