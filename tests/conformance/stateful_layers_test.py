"""Layers whose state changes in every pass: no attack, check or evaluation leaves a trace."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import refusals
from tests.support import tiers

SIZE = 8
X = np.random.default_rng(0).uniform(size=(32, 5, 3)).astype("float32")
Y = (X[:, 0, 0] > 0.5).astype("int32")


class Drift(keras.layers.Layer):
    """Counts its passes, in any mode, and scales by their number."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x * (1.0 + 0.1 * self.count)


class Noise(keras.layers.Layer):
    """Adds noise in any mode."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), stddev=0.3, seed=self.seeds)


def _recurrent():
    return [keras.layers.GRU(4, stateful=True)]


def _drifting():
    return [keras.layers.Flatten(), Drift()]


def _noisy():
    return [keras.layers.Flatten(), Noise()]


LAYERS = [_recurrent, _drifting, _noisy]
kinds = tiers.parametrize("layers", LAYERS, one_for=lambda make: make)


def _model(layers):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(SIZE, 5, 3))
    model = keras.Sequential([inputs, *layers(), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
    return model


def _state(model):
    """Returns the values of all variables, those of recurrent states too."""
    states = [one for layer in model.layers for one in getattr(layer, "states", None) or []]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in [*model.variables, *states]]


def _assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


def _zero(objective="adversarial", num_steps=2):
    attack = kr.attacks.PGD(num_steps=num_steps, random_start=False)
    return kr.AdvTrain(kr.Linf(0.0), attack=attack, objective=objective, warmup=0)


def _fit(model, *callbacks):
    return model.fit(
        X, Y, batch_size=SIZE, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks)
    ).history


@tiers.parametrize("layers", LAYERS)
@tiers.parametrize("objective", ["adversarial", "mixed"])
@tiers.parametrize("num_steps", [2, 12])
def test_training_with_epsilon_0_is_plain_training(layers, objective, num_steps):
    plain, model = _model(layers), _model(layers)
    logs = _fit(plain)
    found = _fit(model, _zero(objective, num_steps))
    if objective == "adversarial" or layers is not _noisy:
        # The second pass of `mixed` draws numbers of its own.
        for one, other in zip(_state(plain), _state(model), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    if layers is not _noisy:
        np.testing.assert_allclose(found["loss"], logs["loss"], rtol=1e-5)
        assert found["accuracy"] == found["adv_accuracy"] == pytest.approx(logs["accuracy"])


@kinds
@tiers.parametrize("attack", [kr.attacks.FGSM(), kr.attacks.PGD(num_steps=12)])
def test_an_attack_leaves_the_state_as_it_was(layers, attack):
    model = _model(layers)
    model.predict(X[:SIZE], batch_size=SIZE, verbose=0)
    before = _state(model)
    found = [attack(model, X[:SIZE], Y[:SIZE], kr.Linf(0.1)) for _ in range(2)]
    _assert_same(_state(model), before)
    np.testing.assert_array_equal(*found)


@kinds
def test_evaluation_leaves_the_state_as_it_was(layers):
    model = _model(layers)
    # All examples are right, so that no batch of an attack is short.
    y = np.full(SIZE, 1)
    model.layers[-1].set_weights(
        [
            np.zeros_like(w) + np.arange(2) * 9.0 * (w.ndim == 1)
            for w in model.layers[-1].get_weights()
        ]
    )
    before = _state(model)
    report = kr.evaluate(
        model, (X[:SIZE], y), kr.Linf(0.1), attacks="pgd", batch_size=SIZE, minimum_norm=None
    )
    assert report.robust_accuracy == 1.0
    _assert_same(_state(model), before)


def test_random_layers_draw_anew_within_an_evaluation_and_go_on_after_it():
    model = keras.Sequential([keras.Input((5, 3)), *_noisy(), keras.layers.Dense(2)])
    labels, before = model.predict(X, verbose=0).argmax(-1), _state(model)
    arguments = {"attacks": "pgd", "minimum_norm": None}
    report = kr.evaluate(model, (X, labels), kr.Linf(0.01), **arguments)
    verdicts = {check.name: check.verdict for check in report.checks}
    assert verdicts["deterministic outputs"] == "failed"
    _assert_same(_state(model), before)


@pytest.mark.parametrize("what", ["attack", "evaluate", "fit"])
def test_a_short_batch_says_what_the_model_takes(what):
    model = _model(_recurrent)
    message = f"takes only batches of {SIZE} examples.*stateful=False.*a batch of 3 examples"
    x, y = X[: SIZE + 3], Y[: SIZE + 3]
    with refusals.assert_refused(message):
        if what == "attack":
            kr.attacks.FGSM()(model, x, y, kr.Linf(0.1), batch_size=SIZE)
        elif what == "evaluate":
            kr.evaluate(model, (x, y), kr.Linf(0.1), attacks="pgd", batch_size=SIZE)
        else:
            model.fit(x, y, batch_size=SIZE, verbose=0, callbacks=[_zero()])


POINTS = np.array([[0.2, 0.9], [0.8, 0.1], [0.5, 0.5]], "float32")


class Counter(keras.layers.Layer):
    """Adds the number of its passes to its inputs."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x + self.count


def test_training_passes_start_from_the_noted_state():
    counter, x = Counter(), keras.ops.convert_to_tensor(POINTS)
    classifier = models.Classifier(keras.Sequential([keras.Input((2,)), counter]))
    for _ in range(2):
        np.testing.assert_allclose(classifier(x), POINTS + 1.0, rtol=1e-6)
    assert classifier.state == [counter.count] and float(counter.count.value) == 0.0
    counter.count.assign(4.0)
    classifier.note_start()
    for _ in range(2):
        np.testing.assert_allclose(classifier(x, training=True), POINTS + 5.0, rtol=1e-6)
    classifier.note_start()
    assert float(counter.count.value) == 5.0
    np.testing.assert_allclose(classifier(x), POINTS + 6.0, rtol=1e-6)
