import warnings

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import refusals
from tests.support import tiers

COUNT = 20
X, Y = np.eye(COUNT, dtype="float32"), np.zeros(COUNT, "int32")


def _kernel(accuracy, tag=1.0):
    """Weights that are right on this share of the examples; `tag` tells them from others."""
    signs = np.where(np.arange(COUNT) < round(accuracy * COUNT), tag, -tag)
    return np.stack([signs, -signs], axis=1).astype("float32")


def _model(accuracy=0.0, optimizer=None, **arguments):
    head = keras.layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((COUNT,)), head])
    head.set_weights([_kernel(accuracy)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss, metrics=["accuracy"], **arguments)
    return model


class Script(keras.callbacks.Callback):
    """Gives the model weights of a given accuracy, tagged with the place in the plan, from 1 on.

    `plan` has an entry for every epoch, or with `every_batch` for every batch; `None` leaves the
    weights alone. Two batches make an epoch.
    """

    def __init__(self, plan, every_batch=False):
        super().__init__()
        self.plan, self.every_batch = plan, every_batch
        self.epoch, self.batches = 0, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.batches.append((self.epoch, batch))
        index = 2 * self.epoch + batch if self.every_batch else self.epoch
        if self.plan[index] is not None:
            self.model.layers[-1].set_weights([_kernel(self.plan[index], index + 1.0)])


class Guard(kr.CollapseGuard):
    """Counts its probes. The ball has the radius 0: the oracle is the accuracy of the script."""

    def __init__(self, **arguments):
        super().__init__((X, Y), kr.Linf(0.0), attack=kr.attacks.BIM(num_steps=2), **arguments)
        self.probes = 0

    def measure(self):
        self.probes += 1
        return super().measure()


def _fit(guard, plan, model=None, *, every_batch=False, before=(), after=(), epochs=None):
    """Fits by a script; returns the model and the history."""
    model = model or _model()
    script = Script(plan, every_batch)
    epochs = epochs or (len(plan) // 2 if every_batch else len(plan))
    guards = [] if guard is None else [guard]
    callbacks = [*before, script, *guards, *after]
    history = model.fit(X, Y, batch_size=10, epochs=epochs, verbose=0, callbacks=callbacks)
    return model, history.history, script


def _weights(model):
    return model.layers[-1].get_weights()[0]


def _accuracies(history):
    return pytest.approx(history["val_probe_accuracy"])


def _collapse():
    return pytest.warns(UserWarning, match="collapsed from")


@tiers.parametrize("stop", [True, False])
def test_without_a_fall_nothing_happens(stop):
    plan = [0.1, 0.5, 0.45, 0.9, 0.75]
    guard = Guard(stop=stop)
    model, history, _ = _fit(guard, plan)
    assert _accuracies(history) == plan
    assert guard.collapsed_epochs == []
    np.testing.assert_array_equal(_weights(model), _kernel(0.75, 5.0))


def test_a_fall_puts_the_best_weights_back_and_stops():
    guard = Guard()
    with _collapse():
        model, history, _ = _fit(guard, [0.5, 0.8, 0.7, 0.1, 0.9])
    assert _accuracies(history) == [0.5, 0.8, 0.7, 0.1]
    assert guard.collapsed_epochs == [3]
    np.testing.assert_array_equal(_weights(model), _kernel(0.8, 2.0))


@pytest.mark.exhaustive
def test_a_slow_fall_counts_from_the_best():
    with _collapse():
        model, history, _ = _fit(Guard(), [0.8, 0.7, 0.65, 0.55, 0.5])
    assert _accuracies(history) == [0.8, 0.7, 0.65, 0.55]
    np.testing.assert_array_equal(_weights(model), _kernel(0.8, 1.0))


@pytest.mark.exhaustive
def test_of_equal_probes_the_last_is_kept():
    with _collapse():
        model, _, _ = _fit(Guard(), [0.8, 0.7, 0.8, 0.1])
    np.testing.assert_array_equal(_weights(model), _kernel(0.8, 3.0))


@tiers.parametrize(
    ("drop", "stops"),
    [(0.3, True), (0.35, False), (0.4, False)],
    one_for=lambda drop, stops: stops,
)
def test_only_more_than_the_drop_is_a_collapse(drop, stops):
    plan = [0.9, 0.55, 0.6]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, history, _ = _fit(Guard(drop=drop), plan)
    assert len(history["val_probe_accuracy"]) == (2 if stops else 3)


@pytest.mark.exhaustive
def test_the_drop_is_20_points_by_default():
    _, history, _ = _fit(Guard(), [0.9, 0.7, 0.7])
    assert len(history["val_probe_accuracy"]) == 3
    with _collapse():
        _, history, _ = _fit(Guard(), [0.9, 0.65, 0.7])
    assert len(history["val_probe_accuracy"]) == 2


@pytest.mark.exhaustive
def test_the_training_can_go_on_from_the_weights_that_are_back():
    guard = Guard(stop=False)
    with _collapse():
        model, history, _ = _fit(guard, [0.5, 0.8, 0.1, None, 0.2, None, 0.95])
    assert _accuracies(history) == [0.5, 0.8, 0.1, 0.8, 0.2, 0.8, 0.95]
    assert guard.collapsed_epochs == [2, 4]
    np.testing.assert_array_equal(_weights(model), _kernel(0.95, 7.0))


@pytest.mark.exhaustive
def test_the_warning_says_what_happened_and_what_to_do():
    with _collapse() as caught:
        _fit(Guard(drop=0.25), [0.5, 0.8, 0.7, 0.1])
    (text,) = [str(w.message) for w in caught if "collapsed from" in str(w.message)]
    assert "accuracy under BIM collapsed from 0.800 to 0.100 in epoch 4" in text
    assert "best probe, from epoch 2, were restored, and the training ends" in text
    assert "Received: a fall of 0.700 with drop=0.25" in text
    assert all(name in text for name in ('attack="nfgsm"', 'objective="gradalign"'))
    kr.AdvTrain(attack="nfgsm")
    kr.AdvTrain(objective="gradalign")
    with pytest.warns(
        UserWarning, match="from the start, were restored, and the training continues"
    ):
        _fit(Guard(stop=False), [0.1], _model(0.9))


@pytest.mark.exhaustive
def test_a_collapse_in_the_first_epoch_goes_back_to_the_start():
    guard = Guard()
    with _collapse():
        model, history, _ = _fit(guard, [0.1, 0.5], _model(0.9))
    assert _accuracies(history) == [0.1]
    np.testing.assert_array_equal(_weights(model), _kernel(0.9))


@pytest.mark.exhaustive
def test_a_model_that_was_never_good_is_left_alone():
    _, history, _ = _fit(Guard(), [0.2, 0.0, 0.15])
    assert _accuracies(history) == [0.2, 0.0, 0.15]


def test_every_fit_starts_anew():
    guard = Guard()
    with _collapse():
        model, _, _ = _fit(guard, [0.9, 0.1])
    model.layers[-1].set_weights([_kernel(0.4)])
    _, history, _ = _fit(guard, [0.3, 0.35], model)
    assert _accuracies(history) == [0.3, 0.35]
    assert guard.collapsed_epochs == []


@pytest.mark.exhaustive
def test_a_fit_after_an_exception_starts_anew():
    guard = Guard()

    def fail(epoch, logs):
        raise RuntimeError("no")

    model = _model()
    with pytest.raises(RuntimeError):
        _fit(guard, [0.9], model, after=[keras.callbacks.LambdaCallback(on_epoch_end=fail)])
    model.layers[-1].set_weights([_kernel(0.2)])
    _, history, _ = _fit(guard, [0.3, 0.25], model)
    assert _accuracies(history) == [0.3, 0.25]


@tiers.parametrize(("every_batches", "probes"), [(2, 4), (None, 4), (1, 7), (3, 4)])
def test_probes_are_at_the_start_in_between_and_at_the_ends(every_batches, probes):
    guard = Guard(every_batches=every_batches)
    _fit(guard, [0.5, 0.6, 0.7])
    assert guard.probes == probes
    assert guard._snapshot is None


def test_a_collapse_within_an_epoch_ends_it_there():
    guard = Guard(every_batches=1)
    with _collapse():
        model, history, script = _fit(guard, [0.5, 0.8, 0.1, 0.2], every_batch=True)
    assert script.batches == [(0, 0), (0, 1), (1, 0)]
    # What the probe saw is logged, and the weights that are back are not probed again.
    assert _accuracies(history) == [0.8, 0.1]
    assert guard.probes == 4
    assert guard.collapsed_epochs == [1]
    np.testing.assert_array_equal(_weights(model), _kernel(0.8, 2.0))


def test_a_collapse_within_an_epoch_may_be_left_behind():
    guard = Guard(every_batches=1, stop=False)
    with _collapse():
        model, history, script = _fit(guard, [0.8, 0.1, None, 0.85], every_batch=True)
    assert len(script.batches) == 4
    assert _accuracies(history) == [0.1, 0.85]
    assert guard.collapsed_epochs == [0]
    np.testing.assert_array_equal(_weights(model), _kernel(0.85, 4.0))


def test_without_it_a_collapse_within_an_epoch_may_be_missed():
    _, history, _ = _fit(Guard(), [0.8, 0.1, 0.1, 0.8], every_batch=True, epochs=2)
    assert _accuracies(history) == [0.1, 0.8]


@pytest.mark.exhaustive
def test_batches_are_counted_under_steps_per_execution():
    guard = Guard(every_batches=3)
    model = _model(steps_per_execution=2)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[guard])
    # Five batches in executions of 2, 2 and 1: a probe after the fourth, and one at the end.
    assert guard.probes == 1 + 2 * 2


def test_the_method_for_batches_is_there_only_if_needed():
    assert "on_train_batch_end" not in vars(Guard())
    assert "on_train_batch_end" in vars(Guard(every_batches=1))


@pytest.mark.exhaustive
def test_averages_go_back_too_and_end_up_in_the_model():
    def optimizer():
        return keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.5)

    expected, _, _ = _fit(None, [0.5, 0.8], _model(optimizer=optimizer()))
    with _collapse():
        model, _, _ = _fit(Guard(), [0.5, 0.8, 0.1], _model(optimizer=optimizer()))
    # Two batches an epoch: the average holds 1/4 of the first kernel and 3/4 of the second.
    average = 0.25 * _kernel(0.5, 1.0) + 0.75 * _kernel(0.8, 2.0)
    np.testing.assert_allclose(_weights(expected), average, atol=1e-6)
    np.testing.assert_allclose(_weights(model), average, atol=1e-6)


@pytest.mark.exhaustive
@tiers.parametrize("swap", [False, True])
def test_averages_that_never_began_are_the_weights_at_the_start(swap):
    model = _model(0.9, keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.5))
    swaps = [keras.callbacks.SwapEMAWeights()] if swap else []
    with _collapse():
        _fit(Guard(), [0.1], model, before=swaps)
    np.testing.assert_allclose(_weights(model), _kernel(0.9), atol=1e-6)


@pytest.mark.exhaustive
def test_the_averages_are_probed_where_keras_validates_them():
    model = _model(0.0, keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.5))
    history = model.fit(
        X,
        Y,
        batch_size=10,
        epochs=2,
        verbose=0,
        validation_data=(X, Y),
        callbacks=[keras.callbacks.SwapEMAWeights(), Script([0.8, 0.7]), Guard()],
    ).history
    # After the second epoch the average is 1/4 of the tag 1 and 3/4 of the tag 2: the signs of 2.
    assert _accuracies(history) == history["val_accuracy"] == pytest.approx([0.8, 0.7])
    plain, history, _ = _fit(
        Guard(), [0.8, 0.7], _model(0.0, keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.99))
    )
    assert _accuracies(history) == [0.8, 0.7]


@pytest.mark.exhaustive
@tiers.parametrize("order", [0, 1])
def test_other_callbacks_see_the_weights_that_are_back(order, tmp_path):
    path = str(tmp_path / "{epoch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    robust = kr.RobustValidation((X, Y), kr.Linf(0.0))
    before = [save, robust] if order else [save]
    after = [] if order else [robust]
    with _collapse():
        _, history, _ = _fit(Guard(), [0.8, 0.1], before=before, after=after)
    assert _accuracies(history) == [0.8, 0.1]
    assert history["val_adv_accuracy"] == pytest.approx([0.8, 0.8])
    saved = _model()
    saved.load_weights(str(tmp_path / "2.weights.h5"))
    np.testing.assert_array_equal(_weights(saved), _kernel(0.8, 1.0))


@pytest.mark.exhaustive
def test_early_stopping_has_the_last_word():
    stop = keras.callbacks.EarlyStopping(
        "val_probe_accuracy", mode="max", patience=5, restore_best_weights=True
    )
    with _collapse():
        model, _, _ = _fit(Guard(), [0.7, 0.8, 0.75, 0.1], after=[stop])
    np.testing.assert_array_equal(_weights(model), _kernel(0.8, 2.0))


@pytest.mark.exhaustive
def test_a_collapse_right_after_a_resume_is_taken_back(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path), delete_checkpoint=False)

    def killed(epoch, logs):
        raise KeyboardInterrupt

    die = keras.callbacks.LambdaCallback(on_epoch_end=killed)
    with pytest.raises(KeyboardInterrupt):
        _fit(Guard(), [0.8, 0.1], after=[backup(), die])
    guard = Guard()
    with _collapse():
        model, history, _ = _fit(guard, [0.5, 0.1, 0.9], after=[backup()])
    assert _accuracies(history) == [0.1]
    assert guard.collapsed_epochs == [1]
    np.testing.assert_array_equal(_weights(model), _kernel(0.8, 1.0))
    # What was saved at the end of the lost epoch is good, too.
    saved = _model()
    saved.load_weights(str(tmp_path / "latest.weights.h5"))
    np.testing.assert_array_equal(_weights(saved), _kernel(0.8, 1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop": 0.0}, "`drop` is a difference of accuracies.*Received: drop=0.0"),
        ({"drop": -0.2}, "above 0 and below 1. Received: drop=-0.2"),
        ({"drop": 20}, "above 0 and below 1. Received: drop=20"),
        ({"every_batches": 0}, "an int >= 1, or None. Received: every_batches=0"),
        ({"every_batches": 2.5}, "an int >= 1, or None. Received: every_batches=2.5"),
        ({"attack": "fgsm"}, "resists attacks of one step.*Received: attack=FGSM"),
        ({"attack": kr.attacks.PGD(num_steps=1)}, 'such as "pgd". Received: attack=PGD'),
        ({"attack": "nfgsm"}, "NFGSM makes examples for training"),
        ({"num_examples": 0}, "`num_examples` must be an int >= 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with refusals.assert_refused(message):
        kr.CollapseGuard((X, Y), kr.Linf(0.1), **arguments)


def test_a_scheduled_radius_is_refused_at_once():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    with pytest.raises(ValueError, match="whose `epsilon` is a schedule"):
        kr.CollapseGuard((X, Y), kr.Linf(schedule))
