import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

X, Y = linear_fit.data(40)
EPSILON = 0.1


def _expected(weights):
    """Accuracy and cross-entropy of the linear model under FGSM, in float64."""
    x_adv = linear_fit.fgsm(X.astype("float64"), Y, weights, EPSILON)
    correct = np.argmax(X @ weights, 1) == Y
    x_adv = np.where(correct[:, None], x_adv, X)
    p = linear_fit.softmax(x_adv @ weights)
    return np.mean(np.argmax(p, 1) == Y), -np.mean(np.log(p[np.arange(len(Y)), Y]))


def _fit(callbacks, epochs=1, learning_rate=0.0):
    model = linear_fit.make_model(optimizer=keras.optimizers.SGD(learning_rate))
    return model.fit(X, Y, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks).history


def _validation(data=(X, Y), **arguments):
    return kr.RobustValidation(data, kr.Linf(EPSILON), attack="fgsm", **arguments)


@tiers.parametrize(
    "data",
    [(X, Y), [X, Y], tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)],
    ids=["tuple", "list", "dataset"],
)
def test_accuracy_and_loss_equal_numpy(data):
    history = _fit([_validation(data)])
    accuracy, loss = _expected(linear_fit.initial_weights().astype("float64"))
    assert history["val_adv_accuracy"][0] == pytest.approx(accuracy, abs=1e-6)
    assert history["val_adv_loss"][0] == pytest.approx(loss, rel=1e-5)


@pytest.mark.exhaustive
def test_only_the_first_examples_are_attacked():
    history = _fit([_validation(num_examples=7)])
    everything = _fit([_validation((X[:7], Y[:7]))])
    np.testing.assert_array_equal(history["val_adv_loss"], everything["val_adv_loss"])


@pytest.mark.exhaustive
def test_batch_size_does_not_matter():
    pgd = kr.attacks.PGD(num_steps=2)
    losses = [
        _fit([kr.RobustValidation((X, Y), kr.Linf(EPSILON), attack=pgd, batch_size=size)])
        for size in (3, 40)
    ]
    assert losses[0]["val_adv_loss"] == pytest.approx(losses[1]["val_adv_loss"], rel=1e-6)


@pytest.mark.exhaustive
def test_every_repeats_the_last_value_in_between():
    values = _fit([_validation(every=2)], epochs=6, learning_rate=0.5)["val_adv_loss"]
    first, second, third, fourth, fifth, sixth = values
    assert (second, fourth) == (third, fifth)
    assert len({first, second, fourth, sixth}) == 4


@pytest.mark.exhaustive
def test_the_last_epoch_is_always_evaluated():
    often = _fit([_validation()], epochs=3, learning_rate=0.5)["val_adv_loss"]
    seldom = _fit([_validation(every=10)], epochs=3, learning_rate=0.5)["val_adv_loss"]
    assert seldom == [often[0], often[0], often[2]]


@pytest.mark.exhaustive
def test_the_seed_decides_the_start():
    attack = kr.attacks.PGD(num_steps=1, step_size=0.05)
    losses = [
        _fit([kr.RobustValidation((X, Y), kr.Linf(EPSILON), attack=attack, seed=seed)])
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1]
    assert losses[0]["val_adv_loss"] != losses[2]["val_adv_loss"]


@tiers.parametrize("place", [2, 0, 1])
def test_other_callbacks_see_the_values_whatever_the_order(place, tmp_path):
    stop = keras.callbacks.EarlyStopping("val_adv_accuracy", mode="max", patience=1)
    csv = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    callbacks = [stop, csv]
    callbacks.insert(place, _validation())
    history = _fit(callbacks, epochs=5)
    # Nothing is learned at rate 0, so that EarlyStopping ends the training after two epochs.
    assert len(history["val_adv_accuracy"]) == 2
    header, first, *_ = (tmp_path / "log.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(row["val_adv_accuracy"]) == history["val_adv_accuracy"][0]


def test_checkpoint_and_learning_rate_follow_the_values(tmp_path):
    path = str(tmp_path / "best.keras")
    best = keras.callbacks.ModelCheckpoint(
        path, monitor="val_adv_loss", mode="min", save_best_only=True
    )
    plateau = keras.callbacks.ReduceLROnPlateau("val_adv_loss", mode="min", patience=1, factor=0.1)
    history = _fit([plateau, best, _validation()], epochs=4, learning_rate=0.2)
    model = keras.models.load_model(path)
    _, loss = _expected(model.layers[-1].get_weights()[0].astype("float64"))
    assert loss == pytest.approx(min(history["val_adv_loss"]), rel=1e-4)
    assert "learning_rate" in history


@pytest.mark.exhaustive
def test_it_moves_to_the_front_and_every_callback_is_called_once():
    calls = []

    class Note(keras.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            calls.append("set_model")

        def on_epoch_end(self, epoch, logs=None):
            calls.append("val_adv_loss" in logs)

    _fit([Note(), Note(), _validation(), Note()])
    assert calls == ["set_model"] * 3 + [True] * 3


@pytest.mark.exhaustive
def test_it_works_beside_validation_data_and_leaves_evaluate_alone():
    model = linear_fit.make_model()
    history = model.fit(X, Y, verbose=0, validation_data=(X, Y), callbacks=[_validation()])
    keys = {"accuracy", "loss", "val_accuracy", "val_loss", "val_adv_accuracy", "val_adv_loss"}
    assert set(history.history) == keys
    assert set(model.evaluate(X, Y, verbose=0, return_dict=True)) == {"accuracy", "loss"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X[:0], Y[:0]), r"at least one example.*x of shape \(0, 4\)"),
        ((255 * X, Y), r"must lie in the bounds.*under bounds=\(0.0, 1.0\)"),
        ((X, Y[:-1]), r"one label per example.*40 examples, labels of shape \(39,\)"),
        ([], "empty data"),
    ],
)
def test_bad_data_are_refused(data, message):
    with refusals.assert_refused(message):
        kr.RobustValidation(data, kr.Linf(0.1))


def test_every_must_be_positive():
    refusals.assert_argument_refused(
        _validation, "`every` must be an int >= 1. Received: every=0", every=0
    )


def test_a_targeted_attack_is_refused():
    with pytest.raises(ValueError, match="have no target labels"):
        kr.RobustValidation((X, Y), attack=kr.attacks.PGD(targeted=True))


def test_a_scheduled_radius_is_refused_at_once():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    with pytest.raises(ValueError, match="whose `epsilon` is a schedule"):
        kr.RobustValidation((X, Y), kr.Linf(schedule))


@pytest.mark.exhaustive
@tiers.parametrize("swap_on_epoch", [False, True])
def test_averaged_weights_are_measured_as_by_keras(swap_on_epoch):
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
    model = linear_fit.make_model(optimizer=optimizer)
    history = model.fit(
        X,
        Y,
        batch_size=8,
        epochs=3,
        verbose=0,
        validation_data=(X, Y),
        callbacks=[
            keras.callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch),
            kr.RobustValidation((X, Y), kr.Linf(0.0), attack="fgsm"),
        ],
    ).history
    np.testing.assert_allclose(history["val_adv_loss"], history["val_loss"], rtol=1e-5)
    np.testing.assert_allclose(history["val_adv_accuracy"], history["val_accuracy"], rtol=1e-5)


def test_batches_of_dicts_with_one_entry():
    inputs = keras.Input((linear_fit.NUM_FEATURES,), name="row")
    model = keras.Model({"row": inputs}, {"label": keras.layers.Dense(3)(inputs)})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), {"label": loss})
    data = tf.data.Dataset.from_tensor_slices(({"row": X}, {"label": Y})).batch(16)
    history = model.fit(data, verbose=0, shuffle=False, callbacks=[_validation(data)]).history
    kernel, bias = model.layers[-1].get_weights()
    assert not bias.any()
    accuracy, loss = _expected(kernel.astype("float64"))
    assert history["val_adv_accuracy"][0] == pytest.approx(accuracy, abs=1e-6)
    assert history["val_adv_loss"][0] == pytest.approx(loss, rel=1e-5)


def test_an_epsilon_in_other_units_gives_a_warning_before_the_training():
    with refusals.assert_warned_once("Epsilon seems to have other units.*Was 8 meant"):
        kr.RobustValidation((X * 255, Y), kr.Linf(8 / 255, bounds=(0, 255)))
    with refusals.assert_warned_once("Epsilon is larger than the range of the inputs"):
        kr.RobustValidation((X, Y), kr.Linf(8, bounds=None))
