import types

import keras
import pytest
import tensorflow as tf

from keras_robust.backend.tensorflow.distribution import refuse_distribution
from tests.support import refusals


class _TPUStrategy:
    num_replicas_in_sync = 8


def _model(**compiled):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse", **compiled)
    return model


def test_one_device_may_do_anything():
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    refuse_distribution(_model(optimizer=optimizer, steps_per_execution=3))


def test_a_strategy_that_keras_does_not_support():
    model = types.SimpleNamespace(distribute_strategy=_TPUStrategy())
    with refusals.assert_refused("cannot train under.*Received: _TPUStrategy with 8 rep"):
        refuse_distribution(model)


@pytest.mark.parametrize(
    "compiled,message",
    [
        (
            {"steps_per_execution": 3},
            "collective sums.*Received: steps_per_execution=3 with 2 repl",
        ),
        (
            {"optimizer": keras.optimizers.SGD(gradient_accumulation_steps=4)},
            "cannot accumulate gradients.*gradient_accumulation_steps=4 with 2 replicas",
        ),
        ({}, None),
    ],
)
def test_two_replicas(compiled, message):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = _model(**compiled)
    if message is None:
        refuse_distribution(model)
        return
    with refusals.assert_refused(message):
        refuse_distribution(model)
