"""`CollapseGuard` beside adversarial training, on collapses that are made and on a real one."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import datasets
from tests.support import devices
from tests.support import linear_fit
from tests.support import tiers


class Spoil(keras.callbacks.Callback):
    """Ruins the weights after the last batch of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, False

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch == self.epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now and batch == self.params["steps"] - 1:
            self.model.layers[-1].set_weights([-linear_fit.weights(self.model)])


@pytest.mark.exhaustive
@tiers.parametrize("count", [1, 2])
def test_adversarial_training_goes_on_as_if_the_lost_epoch_had_not_been(count):
    x, y = linear_fit.data(24)
    good, _ = linear_fit.expected(x, y, epochs=1)
    held_out = (x, np.argmax(x @ good, axis=-1))
    guard = kr.CollapseGuard(held_out, kr.Linf(0.0), stop=False)
    with devices.mirrored(count).scope():
        model = linear_fit.make_model()
    with pytest.warns(UserWarning, match="collapsed from"):
        history = model.fit(
            x,
            y,
            batch_size=linear_fit.BATCH_SIZE,
            shuffle=False,
            epochs=3,
            verbose=0,
            callbacks=[linear_fit.adv_train(), guard, Spoil(1)],
        ).history
    assert guard.collapsed_epochs == [1]
    assert history["val_probe_accuracy"][0] == 1.0
    weights, logs = linear_fit.expected(x, y, epochs=2)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)
    assert history["adv_accuracy"][2] == pytest.approx(logs[1]["adv_accuracy"])


def _train_digits(callbacks):
    """One-step training with an epsilon beyond what it stands: 300 steps."""
    keras.utils.set_random_seed(0)
    digits = datasets.load("digits")
    relu = {"padding": "same", "activation": "relu"}
    model = keras.Sequential(
        [
            keras.Input(digits.input_shape),
            keras.layers.Conv2D(16, 3, **relu),
            keras.layers.Conv2D(32, 3, strides=2, **relu),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    fast = kr.AdvTrain(kr.Linf(0.5), attack="fgsm", warmup="20%")
    x, y = digits.train
    history = model.fit(
        x[:640], y[:640], batch_size=64, epochs=30, verbose=0, callbacks=[fast, *callbacks]
    )
    return model, history.history


@pytest.mark.exhaustive
@pytest.mark.usefixtures("optimized_code")
def test_a_real_collapse_is_taken_back():
    threat_model = kr.Linf(0.1)
    held_out = tuple(part[:100] for part in datasets.load("digits").validation)
    lost, history = _train_digits([kr.RobustValidation(held_out, threat_model, every=3)])
    # What it is about: the training attack is defeated, PGD at a fifth of its radius is not.
    assert history["adv_accuracy"][-1] > 0.6
    assert max(history["val_adv_accuracy"]) > 0.6
    assert history["val_adv_accuracy"][-1] < 0.2

    guard = kr.CollapseGuard(held_out, threat_model)
    with pytest.warns(UserWarning, match="collapsed from"):
        saved, history = _train_digits([guard])
    probes = history["val_probe_accuracy"]
    assert len(probes) < 30
    assert probes[-1] < max(probes) - 0.2
    attack = kr.attacks.PGD(num_steps=20)
    lost, saved = (kr.evaluate(m, held_out, threat_model, attacks=attack) for m in (lost, saved))
    assert saved.robust_accuracy > max(0.5, lost.robust_accuracy + 0.3)
    assert guard.measure()[0] == max(probes)
