"""Training under a strategy: what works equals one device, and what Keras cannot do is refused."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import backends
from tests.support import devices
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

pytestmark = backends.tensorflow_only("strategies are those of TensorFlow")

X, Y = linear_fit.data()


def _collective():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def _fit(strategy, count=22, batch_size=8, callback=None, **arguments):
    with strategy.scope():
        model = linear_fit.make_model(**arguments)
    history = model.fit(
        X[:count],
        Y[:count],
        batch_size=batch_size,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[callback or linear_fit.adv_train()],
    )
    return linear_fit.weights(model), history.history


@tiers.parametrize("steps", [2, 1])
@tiers.parametrize("count", [22, 16, 18])
def test_short_last_batches_and_several_steps_at_once_equal_numpy(count, steps):
    # Last batches of 6, 8 and 2 for two replicas.
    weights, logs = _fit(devices.mirrored(2), count, steps_per_execution=steps)
    expected, told = linear_fit.expected(X[:count], Y[:count], epochs=2)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    _assert_logs(logs, told)


def _assert_logs(logs, told):
    for name in ("loss", "accuracy", "adv_accuracy"):
        found = [epoch[name] for epoch in told]
        np.testing.assert_allclose(logs[name], found, atol=1e-5, err_msg=name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [21, 19, 17])
def test_replicas_count_alike_where_a_batch_cannot_be_split_evenly(count):
    # Keras's way: the mean of the means of 3 and 2, of 2 and 1, of 1 and no examples.
    results = []
    for callbacks in ([], [linear_fit.adv_train(0.0)]):
        with devices.mirrored(2).scope():
            model = linear_fit.make_model()
        data = X[:count], Y[:count]
        arguments = {"shuffle": False, "verbose": 0, "callbacks": callbacks}
        logs = model.fit(*data, batch_size=8, epochs=2, **arguments).history
        results.append((linear_fit.weights(model), logs))
    (plain, plain_logs), (weights, logs) = results
    np.testing.assert_allclose(weights, plain, atol=1e-6)
    for name in plain_logs:
        np.testing.assert_allclose(logs[name], plain_logs[name], atol=1e-6, err_msg=name)
    assert logs["adv_accuracy"] == pytest.approx(logs["accuracy"])


@pytest.mark.exhaustive
def test_metrics_are_those_of_all_replicas_and_no_means_over_them():
    logs = []
    for count in (1, 2):
        with devices.mirrored(count).scope():
            inner = keras.layers.Dense(1)
            model = keras.Sequential([keras.Input((4,)), inner])
            inner.set_weights([linear_fit.initial_weights()[:, :1], np.zeros(1)])
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.1), loss, metrics=[keras.metrics.AUC(name="auc")])
        logs.append(linear_fit.fit(model, linear_fit.adv_train(), X, Y % 2).history)
    for name in logs[0]:
        np.testing.assert_allclose(logs[1][name], logs[0][name], atol=1e-5, err_msg=name)


@pytest.mark.exhaustive
def test_one_device_in_a_strategy_is_one_device():
    weights, _ = _fit(tf.distribute.OneDeviceStrategy("CPU:0"))
    np.testing.assert_allclose(weights, linear_fit.expected(X, Y, epochs=2)[0], atol=1e-5)


@pytest.mark.exhaustive
def test_equal_examples_on_two_replicas_get_noise_of_their_own():
    seen = []

    class Spy(kr.objectives.Adversarial):
        def perturb(self, attack, classifier, batch):
            found = super().perturb(attack, classifier, batch)
            tf.numpy_function(lambda x: seen.append(x), [found.x_adv], [])
            return found

    x = np.tile(np.full((1, 4), 0.5, "float32"), (4, 1))
    attack = kr.attacks.RandomNoise(num_samples=1)
    with devices.mirrored(2).scope():
        model = linear_fit.make_model()
    callback = kr.AdvTrain(kr.Linf(0.1), attack=attack, objective=Spy(), warmup=0)
    model.fit(x, np.zeros(4, "int32"), batch_size=4, verbose=0, callbacks=[callback])
    assert [noisy.shape for noisy in seen] == [(2, 4), (2, 4)]
    assert np.abs(seen[0] - seen[1]).min() > 1e-5
    assert all(np.abs(noisy - 0.5).max() <= 0.1 + 1e-6 for noisy in seen)


@tiers.parametrize(
    ("make_strategy", "arguments", "message"),
    [
        (
            _collective,
            {"steps_per_execution": 2},
            "Use steps_per_execution=1, or .*ReductionToOneDevice.*Received: steps_per_execution=2",
        ),
        (
            _collective,
            {"optimizer": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
            "cannot accumulate.*Use larger batches.*Received: gradient_accumulation_steps=2 with 2",
        ),
        (
            _collective,
            {
                "optimizer": lambda: keras.optimizers.LossScaleOptimizer(
                    keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
                )
            },
            "Received: gradient_accumulation_steps=3 with 2",
        ),
        (_collective, {"jit_compile": True}, "Use jit_compile=False"),
        (
            tf.distribute.MultiWorkerMirroredStrategy,
            {},
            "several machines use the JAX backend.*Received: .* with 1 replicas",
        ),
    ],
)
def test_what_keras_cannot_do_is_refused(make_strategy, arguments, message):
    strategy = make_strategy()
    with strategy.scope():
        made = {name: item() if callable(item) else item for name, item in arguments.items()}
    with refusals.assert_refused(message):
        _fit(strategy, 16, **made)


def test_keras_distribution_is_refused_on_tensorflow():
    distribution = keras.distribution.DataParallel(devices=["CPU:0", "CPU:1"])
    keras.distribution.set_distribution(distribution)
    try:
        model = linear_fit.make_model()
        with refusals.assert_refused("does not distribute.*JAX.*Received: DataParallel", model):
            model.fit(X, Y, verbose=0, callbacks=[linear_fit.adv_train()])
    finally:
        keras.distribution.set_distribution(None)


def test_keras_fails_on_an_uneven_first_batch_before_any_callback():
    # Nobody but Keras can say it better: no callback has been called by then.
    called = []

    class Watch(keras.callbacks.Callback):
        def set_model(self, model):
            called.append(model)

    with devices.mirrored(2).scope():
        model = linear_fit.make_model()
    with pytest.raises(tf.errors.InvalidArgumentError, match="same size and shape"):
        model.fit(X, Y, batch_size=7, verbose=0, callbacks=[Watch()])
    assert (len(called), int(np.asarray(model.optimizer.iterations))) == (0, 0)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("optimized", "shapes"), [(False, r"\[2\] and \[0,8,8"), (True, r"\[0,6,6")]
)
def test_a_replica_without_examples_is_told(optimized, shapes):
    # What TensorFlow says depends on whether it optimizes graphs.
    backends.optimize(optimized)
    model_layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(2, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ]
    with devices.mirrored(2).scope():
        model = keras.Sequential(model_layers)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.full((9, 8, 8, 1), 0.5, "float32"), np.zeros(9, "int32")
    message = (
        f"leaves a replica without examples.*replicas divide.*Received: arrays of shapes {shapes}"
    )
    before = model.get_weights()
    try:
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[kr.AdvTrain(warmup=0)])
    except ValueError as error:
        assert re.search(message, str(error), re.DOTALL)
    else:
        # The convolutions of some CPUs take an empty batch.
        for weight, old in zip(model.get_weights(), before, strict=True):
            assert np.all(np.isfinite(weight)) and np.abs(weight - old).max() > 0.0
    finally:
        backends.optimize_less()
