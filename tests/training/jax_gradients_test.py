import jax
import keras
import numpy as np
import pytest

from keras_robust import backend
from tests.support import streams
from tests.support import trainers

X, X_ADV, Y = streams.X, streams.X_ADV, streams.Y


@pytest.mark.parametrize("sample_weight", [None, streams.SAMPLE_WEIGHT])
@pytest.mark.parametrize(
    "loss,shares", [(trainers.mixed, (0.3, 0.7)), (trainers.adversarial, (0.0, 1.0))]
)
def test_loss_and_gradients_of_softmax_regression(loss, shares, sample_weight):
    model, weights = trainers.linear()
    result = trainers.trainer(model, sample_weight=sample_weight).backward(loss, trainers.found())
    trainers.assert_result(result, trainers.softmax_regression(weights, shares, sample_weight))


def test_what_a_pass_leaves_can_be_used_in_the_compiled_code_around_it():
    model, weights = trainers.linear(
        after=[keras.layers.Softmax()], loss="sparse_categorical_crossentropy"
    )

    def run(x_adv):
        trainer = trainers.trainer(model)
        result = trainer.backward(trainers.adversarial, trainers.found(x_adv))
        assert result.adversarial.was_used and not result.clean.was_used
        logits = result.adversarial.logits
        return result.adversarial.outputs, logits, result.input_gradient

    outputs, logits, slope = jax.jit(run)(X_ADV)
    z = X_ADV @ weights[0] + weights[1]
    np.testing.assert_allclose(logits, z, rtol=1e-5)
    np.testing.assert_allclose(outputs, np.exp(streams.log_softmax(z)), rtol=1e-5)
    expected = trainers.softmax_regression(weights, (0.0, 1.0))
    np.testing.assert_allclose(slope, expected[3], atol=1e-6)


@pytest.mark.parametrize("keeps_state", [False, True])
def test_weights_in_place_of_those_of_the_model(keeps_state):
    model, (_, bias) = trainers.linear()
    others = [np.cos(np.arange(18.0).reshape(6, 3)), bias + [0.5, 0.0, -1.0]]
    before = model.get_weights()
    result = trainers.trainer(model).backward(
        trainers.mixed,
        trainers.found(),
        weights=[other.astype("float32") for other in others],
        keeps_state=keeps_state,
    )
    trainers.assert_result(result, trainers.softmax_regression(others, (0.3, 0.7)))
    trainers.assert_same(model.get_weights(), before)


def test_without_keeping_state_statistics_and_seeds_stay():
    model, _ = trainers.noisy()
    before = trainers.state(model)
    trial = trainers.trainer(model).backward(trainers.mixed, trainers.found(), keeps_state=False)
    trainers.assert_same(trainers.state(model), before)
    # The same seeds drop the same units once more.
    real = trainers.trainer(model).backward(trainers.mixed, trainers.found())
    np.testing.assert_array_equal(trial.loss, real.loss)
    trainers.assert_same(trial.gradients, real.gradients)
    assert any(np.any(a != b) for a, b in zip(trainers.state(model), before, strict=True))


@pytest.mark.parametrize("keeps_state", [False, True])
def test_a_pass_at_other_weights_keeps_statistics_if_asked_to(keeps_state):
    model, norm = trainers.noisy()
    others = [np.array(weight) + 0.25 for weight in model.trainable_weights]
    before = np.array(model.trainable_weights[0])
    trainers.trainer(model).backward(
        trainers.adversarial, trainers.found(), weights=others, keeps_state=keeps_state
    )
    mean = (X_ADV @ others[0] + others[1]).mean(axis=0)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean * keeps_state, rtol=1e-5)
    np.testing.assert_array_equal(model.trainable_weights[0], before)


def test_input_gradients_can_be_differentiated_again():
    def penalty(clean, adversarial):
        def loss(x):
            return keras.ops.sum(adversarial.classifier(x) ** 3, axis=-1), ()

        _, gradient = backend.value_and_input_gradient(loss, clean.x)
        return keras.ops.sum(keras.ops.square(gradient))

    model, (kernel, bias) = trainers.linear()

    def expected(kernel):
        gradient = 3.0 * (X.astype("float64") @ kernel + bias) ** 2 @ kernel.T
        return np.sum(gradient**2)

    result = trainers.trainer(model).backward(penalty, trainers.found())
    assert float(result.loss) == pytest.approx(expected(kernel), rel=1e-5)
    found = np.sum(result.gradients[0] * kernel)
    assert found == pytest.approx(streams.slope(lambda scale: expected(scale * kernel)), rel=1e-4)


def test_two_steps_on_one_batch():
    model, weights = trainers.linear()
    trainer, first = trainers.trainer(model), weights
    for _ in range(2):
        _, of_kernel, of_bias, _ = trainers.softmax_regression(weights, (0.0, 1.0))
        weights = [weights[0] - trainers.RATE * of_kernel, weights[1] - trainers.RATE * of_bias]
        trainer.apply(trainer.backward(trainers.adversarial, trainers.found()))
    for found, wanted in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert int(model.optimizer.iterations) == 2
    # The outputs are those before the first of them.
    np.testing.assert_allclose(trainer.outputs, X @ first[0] + first[1], rtol=1e-5)
    assert not bool(trainer.misread)
    assert bool(trainer.requirements[0].condition)


def test_gradients_are_scaled_and_the_loss_and_the_step_are_not():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(trainers.RATE), initial_scale=64.0
    )
    model, weights = trainers.linear(optimizer)
    optimizer.build(model.trainable_variables)
    loss, of_kernel, of_bias, of_input = trainers.softmax_regression(weights, (0.3, 0.7))
    trainer = trainers.trainer(model)
    result = trainer.backward(trainers.mixed, trainers.found())
    expected = (loss, 64.0 * of_kernel, 64.0 * of_bias, 64.0 * of_input)
    trainers.assert_result(result, expected, rtol=1e-5, atol=1e-4)
    trainer.apply(result)
    np.testing.assert_allclose(
        model.layers[-1].kernel, weights[0] - trainers.RATE * of_kernel, atol=1e-6
    )


def test_sums_over_replicas_are_the_tensors():
    tensors = [keras.ops.ones(2), None]
    assert trainers.trainer(trainers.linear()[0]).sum_over_replicas(tensors) is tensors
