import gc
import weakref

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data(24)


class Counting(kr.objectives.Adversarial):
    """Counts its traces; `share` scales the loss."""

    def __init__(self, share=1.0):
        super().__init__()
        self.share = share
        self.traces = []

    def loss(self, clean, adversarial):
        self.traces.append("trace")
        return self.share * super().loss(clean, adversarial)


def _fit(model, callback, epochs=1):
    linear_fit.fit(model, callback, X, Y, epochs=epochs)
    return len(callback.objective.traces)


def test_several_calls_of_fit_trace_once_and_equal_numpy():
    model, callback = linear_fit.make_model(), linear_fit.adv_train(objective=Counting())
    counts = [_fit(model, callback) for _ in range(3)]
    assert counts[0] == counts[1] == counts[2]
    weights, _ = linear_fit.expected(X, Y, epochs=3)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
@tiers.parametrize("arguments", [{"jit_compile": True}, {"steps_per_execution": 3}], ids=str)
def test_it_is_kept_in_every_mode(arguments):
    model = linear_fit.make_model(**arguments)
    callback = linear_fit.adv_train(objective=Counting())
    counts = [_fit(model, callback) for _ in range(2)]
    assert counts[0] == counts[1]
    weights, _ = linear_fit.expected(X, Y, epochs=2)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_the_warm_up_of_each_fit_is_data():
    model = linear_fit.make_model()
    callback = linear_fit.adv_train(warmup="50%", objective=Counting())
    counts = [_fit(model, callback, epochs) for epochs in (1, 4)]
    assert counts[0] == counts[1]

    def epsilon(step):
        # Three batches an epoch: a warm-up of one step, and then, in the second call, of six.
        return linear_fit.EPSILON * (1.0 if step < 3 else min((step + 1) / 6, 1.0))

    weights, _ = linear_fit.expected(X, Y, epochs=5, epsilon=epsilon)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
def test_the_seed_of_each_fit_is_data():
    found = []
    for seeds in [(0, 1), (0, 0)]:
        callback = linear_fit.adv_train(
            objective=Counting(), attack=kr.attacks.PGD(num_steps=1, step_size=0.05)
        )
        model = linear_fit.make_model()
        for seed in seeds:
            callback.seed = seed
            _fit(model, callback)
        found.append(linear_fit.weights(model))
        assert len(callback.objective.traces) <= 2
    assert np.abs(found[0] - found[1]).max() > 1e-5


def _change_epsilon(model, callback):
    callback.threat_model = kr.Linf(0.2)


def _change_objective(model, callback):
    callback.objective.share = 0.5


def _change_attack(model, callback):
    callback.attack = kr.attacks.PGD(num_steps=1, random_start=False, step_size=1.0)


def _change_attack_in_place(model, callback):
    callback.attack.num_steps = 2


def _compile(model, callback):
    model.compile("sgd", model.loss)


def _change_loss(model, callback):
    model.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _change_optimizer(model, callback):
    model.optimizer = keras.optimizers.SGD(0.1)


@tiers.parametrize(
    "change",
    [
        _change_epsilon,
        _change_objective,
        _change_attack,
        _change_attack_in_place,
        _compile,
        _change_loss,
        _change_optimizer,
    ],
)
def test_changed_settings_are_traced_again(change):
    attack = kr.attacks.PGD(num_steps=1, random_start=False)
    model = linear_fit.make_model()
    callback = linear_fit.adv_train(objective=Counting(), attack=attack)
    before = _fit(model, callback)
    change(model, callback)
    assert _fit(model, callback) > before


def test_another_epsilon_counts_in_the_next_fit():
    model, callback = linear_fit.make_model(), linear_fit.adv_train()
    linear_fit.fit(model, callback, X, Y)
    callback.threat_model = kr.Linf(0.2)
    linear_fit.fit(model, callback, X, Y)
    weights, _ = linear_fit.expected(
        X, Y, epochs=2, epsilon=lambda step: linear_fit.EPSILON if step < 3 else 0.2
    )
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
def test_a_layer_that_is_frozen_between_two_fits_stays_as_it_is():
    first = keras.layers.Dense(linear_fit.NUM_FEATURES)
    model, callback = linear_fit.make_model([first]), linear_fit.adv_train()
    linear_fit.fit(model, callback, X, Y)
    first.trainable = False
    model.compile("sgd", model.loss)
    kept = first.get_weights()
    linear_fit.fit(model, callback, X, Y)
    np.testing.assert_array_equal(first.get_weights()[0], kept[0])


@pytest.mark.exhaustive
def test_what_is_carried_from_batch_to_batch_starts_anew():
    found = []
    for is_kept in (True, False):
        model, objective = linear_fit.make_model(), kr.objectives.Free(num_replays=2)
        callback = linear_fit.adv_train(objective=objective, attack=None)
        for _ in range(2):
            if not is_kept:
                callback = linear_fit.adv_train(objective=objective, attack=None)
            linear_fit.fit(model, callback, X, Y)
        found.append(linear_fit.weights(model))
    np.testing.assert_array_equal(*found)


def test_a_part_of_a_threat_model_that_was_replaced_is_seen():
    found = []
    for first in (0.01, 0.3):
        model, parts = _two_inputs(), {"a": kr.Linf(first, bounds=None)}
        ball = kr.threat_models.PerInput(parts)
        callback = kr.AdvTrain(ball, attack="fgsm", warmup=0)
        model.fit({"a": X, "b": X}, Y, verbose=0, callbacks=[callback])
        model.set_weights(_two_inputs().get_weights())
        callback.threat_model.parts["a"] = kr.Linf(0.3, bounds=None)
        model.fit({"a": X, "b": X}, Y, verbose=0, shuffle=False, callbacks=[callback])
        found.append(model.get_weights()[0])
    np.testing.assert_array_equal(*found)


def _two_inputs():
    keras.utils.set_random_seed(0)
    inputs = {name: keras.Input((X.shape[1],), name=name) for name in "ab"}
    outputs = keras.layers.Dense(linear_fit.NUM_CLASSES)(keras.layers.Add()(list(inputs.values())))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def test_a_setting_of_the_optimizer_that_was_changed_is_seen():
    model, callback = linear_fit.make_model(), linear_fit.adv_train()
    linear_fit.fit(model, callback, X, Y)
    before = linear_fit.weights(model)
    model.optimizer.clipnorm = 1e-6
    linear_fit.fit(model, callback, X, Y)
    assert 0.0 < np.abs(linear_fit.weights(model) - before).max() < 1e-4


def test_the_step_is_released_with_the_model_and_the_callback():
    callback = linear_fit.adv_train(objective=Counting())
    models = [linear_fit.make_model() for _ in range(2)]
    for model in models:
        linear_fit.fit(model, callback, X, Y)
    # Keras has every callback hold the model of its latest `fit`.
    first, objective = weakref.ref(models[0]), weakref.ref(callback.objective)
    del models[0], model
    gc.collect()
    assert first() is None
    del callback
    gc.collect()
    assert objective() is None and models


class Failing(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise RuntimeError("not ours")


def test_an_error_of_another_callback_releases_the_step():
    model, callback = linear_fit.make_model(), linear_fit.adv_train(objective=Counting())
    model.make_train_function()
    plain = model.train_function
    with pytest.raises(RuntimeError, match="not ours"):
        model.fit(X, Y, verbose=0, callbacks=[callback, Failing()])
    held = [weakref.ref(one) for one in (callback, callback.objective, callback._step)]
    del callback
    gc.collect()
    assert [one() for one in held] == [None] * 3
    start = linear_fit.initial_weights()
    model.set_weights([start])
    model.train_on_batch(X, Y)
    p = linear_fit.softmax(X @ start) - np.eye(linear_fit.NUM_CLASSES)[Y]
    expected = start - linear_fit.LEARNING_RATE * X.T @ p / len(X)
    np.testing.assert_allclose(linear_fit.weights(model), expected, atol=1e-5)
    assert model.train_function is plain
