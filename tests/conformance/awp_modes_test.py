"""`AWP` on several devices, in every mode of Keras, and with a schedule."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import devices
from tests.support import linear_fit

GAMMA = 0.3


@pytest.mark.exhaustive
def test_a_schedule_of_gamma_is_data_in_the_graph():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.0, GAMMA])
    results = []
    for gamma in (schedule, 0.0):
        model = linear_fit.make_model()
        callback = linear_fit.adv_train(objective=kr.objectives.AWP(gamma))
        after = []
        keep = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs, model=model, after=after: after.append(
                linear_fit.weights(model)
            )
        )
        x, y = linear_fit.data(8)
        model.fit(x, y, epochs=2, batch_size=8, verbose=0, callbacks=[callback, keep])
        results.append(after)
    # XLA rounds otherwise where gamma is a constant.
    atol = 1e-7 if backends.IS_JAX else 0.0
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=0.0, atol=atol)
    assert np.abs(results[0][1] - results[1][1]).max() > 1e-3


@pytest.mark.exhaustive
@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
def test_two_devices_equal_one():
    x, y = linear_fit.data(20)
    weights = np.linspace(0.0, 2.0, 20)
    results, losses = [], []
    for count in (1, 2):
        with devices.mirrored(count).scope():
            model = linear_fit.make_model()
        # The halves of a batch have other gradients than the batch.
        callback = linear_fit.adv_train(objective=kr.objectives.AWP(GAMMA))
        history = linear_fit.fit(model, callback, x, y, sample_weight=weights)
        results.append(linear_fit.weights(model))
        losses.append(history.history["loss"][-1])
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("arguments", [{"jit_compile": True}, {"steps_per_execution": 2}], ids=str)
def test_every_mode_takes_the_same_steps(arguments):
    x, y = linear_fit.data()
    results = []
    for mode in ({"run_eagerly": True}, arguments):
        model = linear_fit.make_model(**mode)
        linear_fit.fit(model, linear_fit.adv_train(objective=kr.objectives.AWP(GAMMA)), x, y)
        results.append(linear_fit.weights(model))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-5)
