import keras
import numpy as np
import pytest

from keras_robust.callbacks.snapshot import Snapshot
from keras_robust.callbacks.snapshot import start_optimizer
from tests.support import backends
from tests.support import devices
from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data()
CLOCKS = ("iteration", "learning_rate")
optimizers = keras.optimizers


def _multi():
    return optimizers.MultiOptimizer(
        optimizers.OptimizerMap(default_optimizer=optimizers.Adam(0.1, use_ema=True))
    )


OPTIMIZERS = {
    "adam": lambda: optimizers.Adam(0.1),
    "averaged": lambda: optimizers.Adam(0.1, use_ema=True),
    "accumulating": lambda: optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=2),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.1, use_ema=True)),
    "several": _multi,
}
AVERAGED = ("averaged", "scaled", "several")


def _model(optimizer):
    return linear_fit.make_model([keras.layers.BatchNormalization()], optimizer)


def _train(model):
    model.fit(X, Y, batch_size=8, verbose=0)


def _values(variables):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _states(model):
    """The variables of the optimizer that are not clocks, and those that are."""
    states = [v for v in model.optimizer.variables if v.name not in CLOCKS]
    return states, [v for v in model.optimizer.variables if v.name in CLOCKS]


def _averages(model):
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    inner = getattr(inner, "optimizers", [inner])[0]
    return inner._model_variables_moving_average


@pytest.mark.exhaustive
@tiers.parametrize("name", OPTIMIZERS)
def test_everything_that_was_learned_comes_back_and_the_clocks_go_on(name):
    if backends.IS_JAX and name in AVERAGED:
        pytest.skip("after averages Keras cannot fit again on JAX: it donates one buffer twice")
    model = _model(OPTIMIZERS[name]())
    _train(model)
    states, clocks = _states(model)
    before = _values(model.weights + states)
    snapshot = Snapshot(model)
    _train(model)
    times = _values(clocks)
    after = _values(model.weights + states)
    assert sum(not np.array_equal(*pair) for pair in zip(before, after, strict=True)) >= 4
    snapshot.restore()
    for restored, expected in zip(_values(model.weights + states), before, strict=True):
        np.testing.assert_array_equal(restored, expected)
    for restored, expected in zip(_values(clocks), times, strict=True):
        np.testing.assert_array_equal(restored, expected)
    # Three batches an epoch: the last clock of each optimizer stands at the end of the second.
    assert max(int(time) for time in times) == 6


def test_a_reduced_learning_rate_stays_reduced():
    model = _model(optimizers.SGD(0.5, momentum=0.9))
    _train(model)
    snapshot = Snapshot(model)
    model.optimizer.learning_rate = 0.125
    snapshot.restore()
    assert float(model.optimizer.learning_rate) == 0.125


def test_batch_statistics_are_part_of_it():
    model = _model(optimizers.SGD(0.1))
    statistics = model.layers[0].moving_mean
    snapshot = Snapshot(model)
    before = _values([statistics])[0]
    _train(model)
    assert not np.array_equal(_values([statistics])[0], before)
    snapshot.restore()
    np.testing.assert_array_equal(_values([statistics])[0], before)


@pytest.mark.exhaustive
def test_it_can_be_restored_twice():
    model = _model(optimizers.SGD(0.1))
    snapshot, before = Snapshot(model), model.get_weights()
    for _ in range(2):
        _train(model)
        snapshot.restore()
        for weights, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weights, expected)


@pytest.mark.exhaustive
@backends.tensorflow_only("replicas are TensorFlow's")
@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
def test_every_device_gets_the_weights_back():
    with devices.mirrored(2).scope():
        model = _model(optimizers.Adam(0.1, use_ema=True))
    start_optimizer(model)
    snapshot, before = Snapshot(model), _values(model.weights)
    _train(model)
    assert not np.array_equal(_values(model.weights)[-1], before[-1])
    snapshot.restore()
    for variable, expected in zip(model.weights, before, strict=True):
        for copy in variable.value.values:
            np.testing.assert_array_equal(np.asarray(copy), expected)
    for copy in _averages(model)[-1].value.values:
        np.testing.assert_array_equal(np.asarray(copy), linear_fit.initial_weights())


@pytest.mark.parametrize("name", AVERAGED)
def test_averages_start_at_the_weights(name):
    model = _model(OPTIMIZERS[name]())
    assert not model.optimizer.built
    start_optimizer(model)
    assert model.optimizer.built
    for average, weight in zip(_averages(model), model.trainable_weights, strict=True):
        np.testing.assert_array_equal(*_values([average, weight]))


@pytest.mark.exhaustive
@tiers.parametrize("name", AVERAGED)
def test_averages_that_have_begun_are_left_alone(name):
    if backends.IS_JAX and name in AVERAGED:
        pytest.skip("after averages Keras cannot fit again on JAX: it donates one buffer twice")
    model = _model(OPTIMIZERS[name]())
    model.fit(X, Y, batch_size=8, verbose=0)
    model.train_on_batch(X, Y)
    before = _values(_averages(model))
    start_optimizer(model)
    for average, expected in zip(_values(_averages(model)), before, strict=True):
        np.testing.assert_array_equal(average, expected)
    assert not np.array_equal(before[-1], linear_fit.weights(model))


@pytest.mark.exhaustive
@tiers.parametrize("name", OPTIMIZERS)
def test_starting_an_optimizer_early_changes_nothing(name):
    trained = []
    for early in (False, True):
        keras.utils.set_random_seed(0)
        model = _model(OPTIMIZERS[name]())
        if early:
            start_optimizer(model)
        model.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
        trained.append(model.get_weights())
    for first, second in zip(*trained, strict=True):
        np.testing.assert_array_equal(first, second)
