import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust import backend
from keras_robust import models
from keras_robust import training
from tests.support import devices
from tests.support import forward_passes
from tests.support import gradient_steps
from tests.support import tiers

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


def test_a_result_has_the_forward_passes_of_its_backward_pass():
    model, _ = gradient_steps.linear()
    gradient_step, found = gradient_steps.gradient_step(model), gradient_steps.found()
    results = [gradient_step.backward(gradient_steps.adversarial, found) for _ in range(2)]
    for result in results:
        np.testing.assert_array_equal(result.clean.x, X)
        np.testing.assert_array_equal(result.adversarial.x, X_ADV)
        assert result.adversarial.found is found
        assert result.delta is None
        assert result.zero_gradient is found.zero_gradient
        # The model does not run for a pass that the loss does not read.
        assert not result.clean.was_used
        assert result.adversarial.was_used
    assert results[0].adversarial is not results[1].adversarial
    assert gradient_step.classifier.num_calls == 2


def test_a_pass_after_a_change_of_the_weights_sees_it():
    model, weights = gradient_steps.linear()
    gradient_step = gradient_steps.gradient_step(model)
    before = gradient_step.backward(gradient_steps.mixed, gradient_steps.found())
    model.set_weights([2.0 * weight for weight in model.get_weights()])
    after = gradient_step.backward(gradient_steps.mixed, gradient_steps.found())
    gradient_steps.assert_result(before, gradient_steps.softmax_regression(weights, (0.3, 0.7)))
    gradient_steps.assert_result(
        after, gradient_steps.softmax_regression([2.0 * weight for weight in weights], (0.3, 0.7))
    )


@pytest.mark.parametrize("update_state", [False, True])
def test_weights_in_place_of_those_of_the_model(update_state):
    model, (_, bias) = gradient_steps.linear()
    others = [np.cos(np.arange(18.0).reshape(6, 3)), bias + [0.5, 0.0, -1.0]]
    before = model.get_weights()
    result = gradient_steps.gradient_step(model).backward(
        gradient_steps.mixed,
        gradient_steps.found(),
        weights=[tf.constant(other, tf.float32) for other in others],
        update_state=update_state,
    )
    gradient_steps.assert_result(result, gradient_steps.softmax_regression(others, (0.3, 0.7)))
    np.testing.assert_allclose(result.clean.logits, X @ others[0] + others[1], rtol=1e-5)
    gradient_steps.assert_same(model.get_weights(), before)


def test_some_weights_may_stay_those_of_the_model():
    model, (kernel, bias) = gradient_steps.linear()
    other = tf.constant(kernel + 1.0, tf.float32)
    result = gradient_steps.gradient_step(model).backward(
        gradient_steps.adversarial,
        gradient_steps.found(),
        weights=[other, model.trainable_weights[1]],
    )
    gradient_steps.assert_result(
        result, gradient_steps.softmax_regression([kernel + 1.0, bias], (0.0, 1.0))
    )


def test_regularisers_are_those_of_the_weights_in_use():
    model, (kernel, bias) = gradient_steps.linear(
        kernel_regularizer=keras.regularizers.L2(0.1),
        activity_regularizer=keras.regularizers.L2(0.2),
        before=[keras.layers.Activation("linear", activity_regularizer="l1")],
    )
    other = 2.0 * kernel
    result = gradient_steps.gradient_step(model).backward(
        gradient_steps.mixed,
        gradient_steps.found(),
        weights=[tf.constant(other, tf.float32), tf.constant(bias, tf.float32)],
    )
    expected = gradient_steps.softmax_regression([other, bias], (0.3, 0.7))
    activities = []
    for x in (X, X_ADV):
        # Whether Keras divides an activity regulariser by the batch size depends on its version.
        model.layers[-1].kernel.assign(other)
        model(x)
        activities.append(sum(float(loss) for loss in model.losses))
    penalty = 0.1 * np.sum(other**2)
    activity = 0.3 * activities[0] + 0.7 * activities[1] - penalty
    assert activity > 0.1
    assert float(result.loss) == pytest.approx(expected[0] + penalty + activity, rel=1e-5)


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
    np.testing.assert_array_equal(trial.input_gradient, real.input_gradient)


def test_a_pass_at_other_weights_keeps_state_as_a_pass_of_the_model_would():
    model, norm = gradient_steps.noisy()
    plain = keras.models.clone_model(model)
    plain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = gradient_steps.state(model)
    others = [weight.numpy() + 0.25 for weight in model.trainable_weights]
    for variable, value in zip(plain.variables, start, strict=True):
        variable.assign(value)
    for variable, value in zip(plain.trainable_weights, others, strict=True):
        variable.assign(value)
    expected = gradient_steps.gradient_step(plain).backward(
        gradient_steps.adversarial, gradient_steps.found()
    )
    result = gradient_steps.gradient_step(model).backward(
        gradient_steps.adversarial,
        gradient_steps.found(),
        weights=[tf.constant(other) for other in others],
    )
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
    trained = {id(weight) for weight in model.trainable_weights}
    for variable, old, wanted in zip(
        model.variables, start, gradient_steps.state(plain), strict=True
    ):
        if id(variable) in trained:
            np.testing.assert_array_equal(variable, old)
        else:
            np.testing.assert_allclose(variable, wanted, rtol=1e-6)
            assert np.any(wanted != old), variable.path
    mean = (X_ADV @ others[0] + others[1]).mean(axis=0)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, rtol=1e-5)


def test_a_pass_at_other_weights_may_leave_the_state():
    model, _ = gradient_steps.noisy()
    before = gradient_steps.state(model)
    others = [tf.convert_to_tensor(weight) + 0.25 for weight in model.trainable_weights]
    gradient_steps.gradient_step(model).backward(
        gradient_steps.mixed, gradient_steps.found(), weights=others, update_state=False
    )
    gradient_steps.assert_same(gradient_steps.state(model), before)


def test_frozen_weights_have_no_gradient_and_are_not_replaced():
    model, _ = gradient_steps.linear(before=[keras.layers.Dense(6, trainable=False)])
    result = gradient_steps.gradient_step(model).backward(
        gradient_steps.adversarial, gradient_steps.found(), weights=[tf.zeros((6, 3)), tf.zeros(3)]
    )
    assert [gradient.shape for gradient in result.gradients] == [(6, 3), (3,)]
    assert float(result.loss) == pytest.approx(np.log(3.0), rel=1e-6)


def test_nothing_is_left_after_an_exception_in_a_pass_at_other_weights():
    def broken(clean, adversarial):
        adversarial.loss  # noqa: B018
        raise RuntimeError("no")

    model, _ = gradient_steps.noisy()
    before = gradient_steps.state(model)
    others = [tf.convert_to_tensor(weight) + 0.25 for weight in model.trainable_weights]
    with pytest.raises(RuntimeError, match="no"):
        gradient_steps.gradient_step(model).backward(broken, gradient_steps.found(), weights=others)
    gradient_steps.assert_same(gradient_steps.state(model), before)
    gradient_steps.gradient_step(model).backward(gradient_steps.adversarial, gradient_steps.found())
    assert np.any(gradient_steps.state(model)[4] != before[4])


def test_input_gradients_at_other_weights_can_be_differentiated_again():
    def penalty(clean, adversarial):
        def loss(x):
            logits = adversarial.classifier(x)
            return keras.ops.sum(logits**3, axis=-1), ()

        _, gradient = backend.value_and_input_gradient(loss, clean.x)
        return keras.ops.sum(keras.ops.square(gradient))

    model, (kernel, bias) = gradient_steps.linear()
    other = 0.5 * kernel + 0.1

    def expected(kernel):
        gradient = 3.0 * (X.astype("float64") @ kernel + bias) ** 2 @ kernel.T
        return np.sum(gradient**2)

    result = gradient_steps.gradient_step(model).backward(
        penalty,
        gradient_steps.found(),
        weights=[tf.constant(other, tf.float32), tf.constant(bias, tf.float32)],
    )
    assert float(result.loss) == pytest.approx(expected(other), rel=1e-5)
    found = np.sum(result.gradients[0] * other)
    assert found == pytest.approx(
        forward_passes.slope(lambda scale: expected(scale * other)), rel=1e-4
    )


def test_unused_weights_have_the_gradient_none():
    model, _ = gradient_steps.linear()
    result = gradient_steps.gradient_step(model).backward(
        lambda clean, adversarial: keras.ops.sum(clean.x) * 1.0, gradient_steps.found()
    )
    assert result.gradients == [None, None]
    assert result.input_gradient is None


@tiers.parametrize("compiled", [False, True])
def test_apply_takes_the_step_of_the_optimizer(compiled):
    model, weights = gradient_steps.linear()
    _, of_kernel, of_bias, _ = gradient_steps.softmax_regression(weights, (0.3, 0.7))

    def run():
        gradient_step = gradient_steps.gradient_step(model)
        result = gradient_step.backward(gradient_steps.mixed, gradient_steps.found())
        assert result.outputs is result.logits_mismatch is result.requirements is None
        applied = gradient_step.apply(result)
        filled = {"outputs", "logits_mismatch", "requirements"}
        for name in set(result._fields) - filled:
            assert getattr(applied, name) is getattr(result, name)
        return applied.outputs, applied.logits_mismatch

    model.optimizer.build(model.trainable_variables)
    outputs, logits_mismatch = tf.function(run)() if compiled else run()
    np.testing.assert_allclose(
        model.layers[-1].kernel, weights[0] - gradient_steps.RATE * of_kernel, atol=1e-6
    )
    np.testing.assert_allclose(
        model.layers[-1].bias, weights[1] - gradient_steps.RATE * of_bias, atol=1e-6
    )
    np.testing.assert_allclose(outputs, X @ weights[0] + weights[1], atol=1e-5)
    assert not bool(logits_mismatch)
    assert int(model.optimizer.iterations) == 1


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


def test_outputs_come_from_the_pass_of_the_objective_or_a_new_pass():
    model, _ = gradient_steps.noisy()
    model.optimizer.learning_rate = 0.0
    gradient_step = gradient_steps.gradient_step(model)
    result = gradient_step.apply(
        gradient_step.backward(gradient_steps.mixed, gradient_steps.found())
    )
    assert result.outputs is result.clean.outputs
    gradient_step = gradient_steps.gradient_step(model)
    before = gradient_steps.state(model)
    with_statistics = gradient_step.backward(
        gradient_steps.adversarial, gradient_steps.found(), update_state=False
    )
    applied = gradient_step.apply(with_statistics)
    gradient_steps.assert_same(gradient_steps.state(model), before)
    assert not with_statistics.clean.was_used
    # In training mode, of the same batch and seed.
    expected = model(keras.ops.convert_to_tensor(X), training=True)
    np.testing.assert_allclose(applied.outputs, expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_scaled_and_the_loss_and_the_step_are_not():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(gradient_steps.RATE), initial_scale=64.0
    )
    model, weights = gradient_steps.linear(optimizer)
    optimizer.build(model.trainable_variables)
    loss, of_kernel, of_bias, of_input = gradient_steps.softmax_regression(weights, (0.3, 0.7))
    gradient_step = gradient_steps.gradient_step(model)
    for arguments in ({}, {"weights": list(model.trainable_weights)}):
        result = gradient_step.backward(gradient_steps.mixed, gradient_steps.found(), **arguments)
        expected = (loss, 64.0 * of_kernel, 64.0 * of_bias, 64.0 * of_input)
        gradient_steps.assert_result(result, expected, rtol=1e-5, atol=1e-4)
    gradient_step.apply(result)
    np.testing.assert_allclose(
        model.layers[-1].kernel, weights[0] - gradient_steps.RATE * of_kernel, atol=1e-6
    )


def _two_outputs():
    inputs = keras.Input((6,))
    outputs = [keras.layers.Dense(1, name=name)(inputs) for name in "ab"]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", ["mse", "mse"])
    y = [tf.ones((4, 1)), tf.zeros((4, 1))]
    model.test_on_batch(X, y)
    model.reset_metrics()
    batch = forward_passes.batch()._replace(y=y)
    return model, training.GradientStep(models.Classifier(model), batch)


def _logged(model):
    return {metric.name: float(metric.result()) for metric in model.metrics}


def test_losses_of_several_outputs_are_logged_at_the_weights_of_the_model():
    model, gradient_step = _two_outputs()
    others = [tf.convert_to_tensor(weight) + 5.0 for weight in model.trainable_weights]
    gradient_step.backward(gradient_steps.adversarial, gradient_steps.found(), weights=others)
    assert _logged(model)["a_loss"] == _logged(model)["b_loss"] == 0.0
    gradient_step.backward(gradient_steps.adversarial, gradient_steps.found(), update_state=False)
    a, b = model(X_ADV)
    assert _logged(model)["a_loss"] == pytest.approx(np.mean((a - 1.0) ** 2), rel=1e-5)
    assert _logged(model)["b_loss"] == pytest.approx(np.mean(b**2), rel=1e-5)


def test_sums_over_one_replica_are_the_tensors():
    tensors = [tf.ones(2), None]
    assert (
        gradient_steps.gradient_step(gradient_steps.linear()[0]).sum_over_replicas(tensors)
        is tensors
    )


def test_sums_over_two_replicas():
    strategy = devices.mirrored(2)
    with strategy.scope():
        model, _ = gradient_steps.linear()
    gradient_step = gradient_steps.gradient_step(model)

    def run():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        mine = tf.cast(number, tf.float32) + 1.0
        return gradient_step.sum_over_replicas([mine * tf.ones(2), None, mine * 10.0])

    ones, unused, tens = tf.function(lambda: strategy.run(run))()
    for replica in range(2):
        np.testing.assert_array_equal(ones.values[replica], [3.0, 3.0])
        assert float(tens.values[replica]) == 30.0
    assert unused is None


def test_adversarial_examples_may_have_labels_and_weights_of_their_own():
    model, (kernel, bias) = gradient_steps.linear()
    gradient_step = gradient_steps.gradient_step(model, sample_weight=forward_passes.SAMPLE_WEIGHT)
    labels, weight = np.array([1, 1, 0, 2]), np.array([3.0, 0.0, 1.0, 0.5], "float32")
    batch = forward_passes.batch(x=0.0 * X, y=labels, sample_weight=weight)
    result = gradient_step.backward(gradient_steps.mixed, gradient_steps.found(), batch=batch)
    terms = [
        forward_passes.mean(forward_passes.cross_entropy(x @ kernel + bias, y), w)
        for x, y, w in ((X, Y, forward_passes.SAMPLE_WEIGHT), (X_ADV, labels, weight))
    ]
    assert float(result.loss) == pytest.approx(0.3 * terms[0] + 0.7 * terms[1], rel=1e-5)
    np.testing.assert_array_equal(result.adversarial.y, labels)
    np.testing.assert_array_equal(result.adversarial.x, X_ADV)
    np.testing.assert_array_equal(result.clean.y, Y)
