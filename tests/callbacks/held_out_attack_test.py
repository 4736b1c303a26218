import itertools

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.callbacks.held_out_attack import HeldOutAttack
from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data(40)
EPSILON = 0.1


def _held_out(cls=HeldOutAttack, data=(X, Y), **arguments):
    arguments = {"attack": "fgsm", "num_examples": None, "batch_size": 16, **arguments}
    return cls(data, kr.Linf(EPSILON), **arguments)


def _measured(model, **arguments):
    callback = _held_out(**arguments)
    callback.set_model(model)
    return callback.measure()


def test_accuracy_and_loss_equal_numpy():
    weights = linear_fit.initial_weights().astype("float64")
    x_adv = linear_fit.fgsm(X.astype("float64"), Y, weights, EPSILON)
    x_adv = np.where((np.argmax(X @ weights, 1) == Y)[:, None], x_adv, X)
    p = linear_fit.softmax(x_adv @ weights)
    accuracy, loss = _measured(linear_fit.make_model())
    assert accuracy == pytest.approx(np.mean(np.argmax(p, 1) == Y), abs=1e-6)
    assert loss == pytest.approx(-np.mean(np.log(p[np.arange(len(Y)), Y])), rel=1e-5)


def test_the_same_starts_every_time_and_others_for_another_seed():
    model, attack = linear_fit.make_model(), kr.attacks.PGD(num_steps=1, step_size=0.05)
    callback = _held_out(attack=attack)
    callback.set_model(model)
    first = callback.measure()
    assert callback.measure() == first
    assert _measured(model, attack=attack, seed=1) != first


class First(HeldOutAttack):
    rank = 0

    def on_epoch_end(self, epoch, logs=None):
        logs["order"].append("first")


class Second(HeldOutAttack):
    def on_epoch_end(self, epoch, logs=None):
        logs["order"].append("second")


class Other(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["order"].append("other")


@tiers.parametrize("order", list(itertools.permutations(range(4)))[::-1])
def test_they_stand_in_front_in_the_order_of_their_rank(order):
    made = [_held_out(First), _held_out(Second), Other(), Other()]
    callbacks = keras.callbacks.CallbackList(
        [made[index] for index in order], model=linear_fit.make_model()
    )
    logs = {"order": []}
    callbacks.on_epoch_end(0, logs)
    assert logs["order"] == ["first", "second", "other", "other"]
    assert all(callback.model is not None for callback in made)


def test_without_a_list_it_stays_alone():
    callback = _held_out()
    callback.set_model(linear_fit.make_model())
    assert callback._callback_list() == []


def test_an_attack_that_fails_leaves_the_weights_in_place():
    class Failing(kr.attacks.FGSM):
        def run(self, *arguments, **more):
            raise RuntimeError("no")

    optimizer = keras.optimizers.SGD(0.5, use_ema=True)
    model = linear_fit.make_model(optimizer=optimizer)
    # After `fit` one buffer would be weights and averages, which Keras cannot train on with JAX.
    for _ in range(2):
        model.train_on_batch(X, Y)
    before = linear_fit.weights(model)
    callback = _held_out(attack=Failing())
    keras.callbacks.CallbackList([callback, keras.callbacks.SwapEMAWeights()], model=model)
    with pytest.raises(RuntimeError):
        callback.measure()
    np.testing.assert_allclose(linear_fit.weights(model), before, atol=1e-6)
    average = np.asarray(optimizer._model_variables_moving_average[0])
    assert np.abs(average - before).max() > 1e-3
