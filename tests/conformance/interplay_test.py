"""How `AdvTrain` gets on with other callbacks, optimizers, number types and outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data()


_weights = linear_fit.weights


def _fit(model, callback, x=X, y=Y, **arguments):
    return linear_fit.fit(model, callback, x, y, **arguments)


def test_a_targeted_attack_is_refused():
    with pytest.raises(ValueError, match="have no target labels.*targeted=True"):
        kr.AdvTrain(attack=kr.attacks.PGD(targeted=True))


@pytest.mark.exhaustive
@tiers.parametrize("dtype", ["float64", "float16", "uint8"])
def test_inputs_of_any_number_type_are_trained_on_as_float32(dtype):
    x = (X * 4).round().astype(dtype)
    results = []
    for inputs in (x, x.astype("float32")):
        model = linear_fit.make_model()
        callback = kr.AdvTrain(kr.Linf(0.1, (0, 4)), attack="fgsm", warmup=0)
        _fit(
            model,
            callback,
            tf.data.Dataset.from_tensor_slices((inputs, Y)).batch(8),
            None,
            batch_size=None,
        )
        results.append(_weights(model))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.exhaustive
def test_a_callback_that_trains_by_itself_does_not_end_the_defence():
    class Meddler(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                before = self.model.layers[-1].get_weights()
                self.model.optimizer.learning_rate = 0.0
                self.model.train_on_batch(X[:8], Y[:8])
                self.model.optimizer.learning_rate = linear_fit.LEARNING_RATE
                self.model.layers[-1].set_weights(before)

    model = linear_fit.make_model()
    history = model.fit(
        X,
        Y,
        batch_size=8,
        shuffle=False,
        epochs=3,
        verbose=0,
        callbacks=[linear_fit.adv_train(), Meddler()],
    )
    weights, _ = linear_fit.expected(X, Y, epochs=3)
    np.testing.assert_allclose(_weights(model), weights, atol=1e-5)
    assert len(history.history["adv_accuracy"]) == 3


@pytest.mark.exhaustive
def test_a_remade_train_function_is_replaced_and_left_in_place_afterwards():
    class Unfreeze(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.model.make_train_function(force=True)
                self.remade = self.model.train_function

    unfreeze, model = Unfreeze(), linear_fit.make_model()
    model.fit(
        X,
        Y,
        batch_size=8,
        shuffle=False,
        epochs=2,
        verbose=0,
        callbacks=[linear_fit.adv_train(), unfreeze],
    )
    weights, _ = linear_fit.expected(X, Y, epochs=2)
    np.testing.assert_allclose(_weights(model), weights, atol=1e-5)
    assert model.train_function is unfreeze.remade


@pytest.mark.exhaustive
@tiers.parametrize("wrapped", [False, True])
def test_warmup_counts_optimizer_steps_under_accumulation(wrapped):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    if wrapped:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model, steps = linear_fit.make_model(optimizer=optimizer), []

    class Spy(kr.objectives.Adversarial):
        def perturb(self, attack, classifier, batch):
            steps.append(round(float(batch.threat_model.radius), 4))
            return super().perturb(attack, classifier, batch)

    model.run_eagerly = True
    callback = linear_fit.adv_train(objective=Spy(), warmup="50%")
    _fit(model, callback, X[:16], Y[:16], epochs=4)
    # Eight batches are four optimizer steps; the ramp covers two of them.
    assert steps == [0.05, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]


def test_the_batches_of_an_accumulation_have_starts_of_their_own():
    seeds = []

    class Spy(kr.objectives.Adversarial):
        def perturb(self, attack, classifier, batch):
            seeds.append(tuple(np.asarray(batch.seed)))
            return super().perturb(attack, classifier, batch)

    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model = linear_fit.make_model(optimizer=optimizer, run_eagerly=True)
    _fit(model, linear_fit.adv_train(objective=Spy(), seed=9), X[:16], Y[:16], epochs=2)
    assert seeds == [(9, 0), (9, 1), (9, 2), (9, 3)]


@pytest.mark.exhaustive
def test_the_logs_of_several_outputs_are_not_fed_by_the_attack():
    inputs = keras.Input((linear_fit.NUM_FEATURES,))
    outputs = [keras.layers.Dense(1, name=name)(inputs) for name in "ab"]
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
    # Batches of one size: Keras weighs the last one of these logs like the others.
    y = [Y[:16].astype("float32"), 2.0 * Y[:16]]
    callback = linear_fit.adv_train(attack=kr.attacks.BIM(num_steps=3))
    history = _fit(model, callback, X[:16], y).history
    assert history["a_loss"][0] + history["b_loss"][0] == pytest.approx(
        history["loss"][0], rel=1e-5
    )


def test_no_accuracy_under_attack_without_an_attack():
    history = _fit(linear_fit.make_model(), linear_fit.adv_train(objective="cleanlogitpairing"))
    assert set(history.history) == {"accuracy", "loss"}


@pytest.mark.exhaustive
def test_xla_finds_a_hidden_softmax_after_the_first_batch():
    def hidden(x):
        powers = keras.ops.exp(x)
        return powers / keras.ops.sum(powers, axis=-1, keepdims=True)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=hidden)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=True)
    with pytest.raises(ValueError, match="The loss takes logits(, but| and) the outputs"):
        _fit(model, linear_fit.adv_train())
    # On JAX the checks are in the compiled step, before its values are stored.
    assert int(model.optimizer.iterations) == (0 if backends.IS_JAX else 1)
    assert not hasattr(model.train_function, "plain")
