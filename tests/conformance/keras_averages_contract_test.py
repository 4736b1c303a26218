"""What this package relies on in how Keras averages weights."""

import keras
import numpy as np
import pytest

from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data()


def _fit(model, **arguments):
    return model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, **arguments)


def _averaging():
    """A model that halves the distance of its averages to its weights at every step."""
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
    return linear_fit.make_model(optimizer=optimizer), optimizer


def _averages(optimizer):
    return keras.ops.convert_to_numpy(optimizer._model_variables_moving_average[0])


def test_averages_are_zeros_until_the_first_step_and_weights_after_it():
    model, optimizer = _averaging()
    optimizer.build(model.trainable_variables)
    assert not _averages(optimizer).any()
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(_averages(optimizer), linear_fit.weights(model))


def test_fit_ends_by_putting_the_averages_in_place_of_the_weights():
    model, optimizer = _averaging()
    live = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: live.append(linear_fit.weights(model))
    )
    _fit(model, callbacks=[look])
    assert np.abs(linear_fit.weights(model) - live[0]).max() > 1e-3
    np.testing.assert_array_equal(linear_fit.weights(model), _averages(optimizer))


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_clocks_of_an_optimizer_are_known_by_name(wrapped):
    optimizer = keras.optimizers.Adam(0.1)
    if wrapped:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = linear_fit.make_model(optimizer=optimizer)
    model.optimizer.build(model.trainable_variables)
    names = [variable.name for variable in model.optimizer.variables]
    assert names.count("iteration") == names.count("learning_rate") == 1 + wrapped


def test_swap_ema_weights_leaves_the_averages_in_the_model_after_predict():
    model, optimizer = _averaging()
    # After `fit` averages and weights share their memory, and Keras on JAX trains no more.
    for _ in range(2):
        model.train_on_batch(X, Y)
    weights, averages = linear_fit.weights(model), _averages(optimizer)
    assert np.abs(weights - averages).max() > 1e-3
    swap = keras.callbacks.SwapEMAWeights()
    model.predict(X, verbose=0, callbacks=[swap])
    assert np.abs(linear_fit.weights(model) - weights).max() > 1e-3, (
        "Keras has mended SwapEMAWeights.on_predict_end, so that the weights are back after "
        "`predict`: take the warning out of examples/robust_overfitting.py, and this test"
    )
    np.testing.assert_allclose(linear_fit.weights(model), averages, atol=1e-6)
    np.testing.assert_allclose(_averages(optimizer), weights, atol=1e-6)
    # `evaluate` with the same callback measures the averages, and puts the weights back.
    model.evaluate(X, Y, verbose=0, callbacks=[swap])
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-6)


@tiers.parametrize("swap_on_epoch", [False, True])
def test_swap_ema_weights_on_epochs_loses_the_averages_of_a_fit_that_is_stopped(swap_on_epoch):
    model, _ = _averaging()
    seen = {}

    def look(epoch, logs):
        # First in the list: the weights of the last step are in the model.
        seen["weights"] = linear_fit.weights(model)
        seen["averages"] = _averages(model.optimizer)
        model.stop_training = True

    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch)
    _fit(model, epochs=2, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look), swap])
    assert np.abs(seen["weights"] - seen["averages"]).max() > 1e-3
    expected = seen["weights"] if swap_on_epoch else seen["averages"]
    np.testing.assert_allclose(
        linear_fit.weights(model),
        expected,
        atol=1e-6,
        err_msg="Keras has changed what SwapEMAWeights(swap_on_epoch=True) leaves after a fit that "
        "is stopped early: see the second warning in examples/robust_overfitting.py",
    )
