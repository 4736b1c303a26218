import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import backups
from tests.support import devices
from tests.support import linear_fit
from tests.support import tiers


def _random_layers():
    return [keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.05),
    "average": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True),
    "accumulation": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.05), dynamic_growth_steps=3
    ),
}


@tiers.parametrize("optimizer", OPTIMIZERS)
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, optimizer):
    path = tmp_path / "deep" / "backup.npz"
    make = OPTIMIZERS[optimizer]
    callbacks = [kr.AdvTrain(kr.Linf(0.1), attack=kr.attacks.PGD(num_steps=1), warmup=8)]
    whole, first, second = (backups.make_model(_random_layers, optimizer=make()) for _ in range(3))
    backups.fit(whole, None, callbacks=callbacks)
    with pytest.raises(RuntimeError, match="stopped"):
        backups.fit(first, path, stop=2, callbacks=callbacks)
    assert [item.name for item in path.parent.iterdir()] == ["backup.npz"]
    history = backups.fit(second, path, callbacks=callbacks)
    assert history.epoch == [2, 3]
    for one, other in zip(whole.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    pairs = zip(whole.optimizer.variables, second.optimizer.variables, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert list(path.parent.iterdir()) == []


def test_the_seeds_of_random_layers_are_in_it(tmp_path):
    path = tmp_path / "backup.npz"
    model = backups.make_model(_random_layers)
    backups.fit(model, path, epochs=1, delete_checkpoint=False)
    state = np.array(model.layers[1].seed_generator.state)
    keras.utils.set_random_seed(1)
    again = linear_fit.make_model(_random_layers())
    assert np.any(np.array(again.layers[1].seed_generator.state) != state)
    backups.fit(again, path, epochs=1, delete_checkpoint=False)
    np.testing.assert_array_equal(again.layers[1].seed_generator.state, state)


def test_a_kept_file_makes_the_same_call_train_no_epochs(tmp_path):
    path = tmp_path / "backup.npz"
    first, second = backups.make_model(), backups.make_model()
    assert kr.callbacks.AtomicBackup(path).epochs_done() == 0
    backups.fit(first, path, delete_checkpoint=False)
    assert kr.callbacks.AtomicBackup(path).epochs_done() == 4
    assert backups.fit(second, path, delete_checkpoint=False).epoch == []
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])


def test_reduced_precision_is_kept_exactly(tmp_path):
    path = tmp_path / "backup.npz"
    models = [
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype="bfloat16")])
        for _ in range(2)
    ]
    for model in models:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        backups.fit(model, path, epochs=2, delete_checkpoint=False)
    for one, other in zip(models[0].variables, models[1].variables, strict=True):
        assert one.dtype == "bfloat16"
        np.testing.assert_array_equal(np.asarray(one, "float32"), np.asarray(other, "float32"))


@pytest.mark.exhaustive
@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
def test_two_devices(tmp_path):
    path, results = tmp_path / "backup.npz", []
    for stop in (None, 2):
        with devices.mirrored(2).scope():
            model = backups.make_model(optimizer=keras.optimizers.Adam(0.05))
        if stop:
            with pytest.raises(RuntimeError, match="stopped"):
                backups.fit(model, path, stop=stop)
            with devices.mirrored(2).scope():
                model = backups.make_model(optimizer=keras.optimizers.Adam(0.05))
        backups.fit(model, path)
        results.append(model.get_weights()[0])
    np.testing.assert_array_equal(*results)


@pytest.mark.exhaustive
def test_it_may_stand_elsewhere_when_it_goes_on(tmp_path):
    path, found = tmp_path / "backup.npz", []
    for place in (0, 2):
        stopping = keras.callbacks.EarlyStopping("loss", patience=9)
        validation = kr.RobustValidation((backups.X, backups.Y), kr.Linf(0.1), attack="fgsm")
        callbacks = [stopping, validation]
        callbacks.insert(place, kr.callbacks.AtomicBackup(path, delete_checkpoint=False))
        backups.make_model().fit(
            backups.X, backups.Y, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
        )
        found.append((stopping.best, validation._latest))
    assert found[0] == found[1] and found[0][1] is not None


@pytest.mark.exhaustive
def test_more_epochs_go_on_with_the_warm_up_of_the_first_call(tmp_path):
    path, found = tmp_path / "backup.npz", {}
    for epochs in (2, 4):
        adversarial = kr.AdvTrain(kr.Linf(0.1), attack="fgsm", warmup="50%", clean_epochs=1)
        spy = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs, one=adversarial: found.update(
                {epoch: one._epsilon_warmup}
            )
        )
        backups.fit(
            backups.make_model(),
            path,
            epochs,
            callbacks=[adversarial, spy],
            delete_checkpoint=False,
        )
    # Three batches an epoch.
    assert found == {0: (3, 3), 1: (3, 3), 2: (3, 3), 3: (3, 3)}


def test_callbacks_in_another_order_remember(tmp_path):
    path, found = tmp_path / "backup.npz", []
    for order in (1, -1):
        stopping = keras.callbacks.EarlyStopping("loss", patience=9)
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=9)
        callbacks = [stopping, plateau][::order]
        backups.fit(
            backups.make_model(), path, epochs=2, callbacks=callbacks, delete_checkpoint=False
        )
        found.append((stopping.best, plateau.best))
    assert found[0] == found[1] and None not in found[0]


def _keeping(folder):
    """Callbacks of Keras that track the best epoch, after the backup in the list."""
    monitor = {"monitor": "score", "mode": "max"}
    return [
        kr.callbacks.AtomicBackup(folder / "backup.npz"),
        _Score(),
        keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5", save_best_only=True, save_weights_only=True, **monitor
        ),
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True, **monitor),
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2, **monitor),
    ]


class _Score(keras.callbacks.Callback):
    """Adds logs in which the second epoch is the best."""

    SCORES = (0.5, 0.9, 0.6, 0.7, 0.8, 0.4)

    def __init__(self, stop=None):
        super().__init__()
        self.stop = stop

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.stop:
            raise RuntimeError("stopped")

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self.SCORES[epoch]


def test_the_best_epoch_is_that_of_the_whole_training(tmp_path, capsys):
    results = []
    for stop in (None, 3):
        folder = tmp_path / str(stop)
        folder.mkdir()
        arguments = {"batch_size": 8, "shuffle": False, "epochs": 6}
        if stop:
            callbacks = _keeping(folder)
            callbacks[1].stop = stop
            with pytest.raises(RuntimeError, match="stopped"):
                backups.make_model(optimizer="adam").fit(
                    backups.X, backups.Y, verbose=0, callbacks=callbacks, **arguments
                )
        model, callbacks = backups.make_model(optimizer="adam"), _keeping(folder)
        history = model.fit(backups.X, backups.Y, verbose=2, callbacks=callbacks, **arguments)
        saved = backups.make_model(optimizer="adam")
        saved.optimizer.build(saved.trainable_variables)
        saved.load_weights(folder / "best.weights.h5")
        _, _, checkpoint, stopping, plateau = callbacks
        counters = checkpoint.best, stopping.best_epoch, stopping.stopped_epoch, plateau.wait
        rate = float(model.optimizer.learning_rate)
        weights = model.get_weights() + saved.get_weights()
        results.append((weights, history.epoch[-1], counters, rate))
    told = [line for line in capsys.readouterr().out.splitlines() if "Resuming" in line]
    assert told == [f"Resuming after epoch 3, from {tmp_path / '3' / 'backup.npz'}"]
    whole, again = results
    assert whole[1:] == again[1:] and whole[2][:3] == (0.9, 1, 4)
    for one, other in zip(whole[0], again[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_callbacks_of_one_kind_keep_their_own(tmp_path):
    def callbacks():
        return [
            kr.callbacks.AtomicBackup(tmp_path / "backup.npz", delete_checkpoint=False),
            keras.callbacks.ReduceLROnPlateau("loss", mode="max", patience=9),
            keras.callbacks.ReduceLROnPlateau("loss", mode="min", patience=9),
        ]

    kept = callbacks()
    model = backups.make_model()
    model.fit(backups.X, backups.Y, epochs=3, verbose=0, callbacks=kept)
    again = callbacks()
    backups.make_model().fit(backups.X, backups.Y, epochs=3, verbose=0, callbacks=again)
    assert kept[1].best > kept[2].best
    for one, other in zip(kept[1:], again[1:], strict=True):
        assert (one.best, one.wait) == (other.best, other.wait)


@pytest.mark.exhaustive
def test_a_training_that_stopped_early_is_over(tmp_path):
    def fit(patience):
        model = backups.make_model(optimizer="adam")
        stopping = keras.callbacks.EarlyStopping(
            "score", mode="max", patience=patience, restore_best_weights=True
        )
        backup = kr.callbacks.AtomicBackup(tmp_path / "backup.npz", delete_checkpoint=False)
        callbacks = [backup, _Score(), stopping]
        history = model.fit(
            backups.X,
            backups.Y,
            batch_size=8,
            shuffle=False,
            epochs=6,
            verbose=0,
            callbacks=callbacks,
        )
        return model.get_weights(), history.epoch

    first, epochs = fit(patience=2)
    again, none = fit(patience=2)
    assert (epochs, none) == ([0, 1, 2, 3], [])
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    # With more patience the training continues.
    assert fit(patience=9)[1] == [4, 5]


@pytest.mark.exhaustive
def test_averaged_weights_are_swapped_as_in_the_whole_training(tmp_path):
    path, results = tmp_path / "backup.npz", []
    for stop in (None, 2):
        average = {"use_ema": True, "ema_momentum": 0.5}
        if stop:
            swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            with pytest.raises(RuntimeError, match="stopped"):
                model = backups.make_model(optimizer=keras.optimizers.SGD(0.5, **average))
                backups.fit(model, path, stop=stop, callbacks=[swap])
        model = backups.make_model(optimizer=keras.optimizers.SGD(0.5, **average))
        backups.fit(model, path, callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])
        results.append(model.get_weights()[0])
    np.testing.assert_array_equal(*results)


@pytest.mark.exhaustive
def test_what_robust_validation_last_measured_is_repeated(tmp_path):
    path, logs = tmp_path / "backup.npz", []
    for stop in (None, 3):
        for end in (stop, None) if stop else (None,):
            validation = kr.RobustValidation(
                (backups.X, backups.Y), kr.Linf(0.1), attack=kr.attacks.FGSM(), every=2
            )
            model = backups.make_model()
            if end:
                with pytest.raises(RuntimeError, match="stopped"):
                    backups.fit(model, path, stop=end, callbacks=[validation])
            else:
                history = backups.fit(model, path, callbacks=[validation])
        logs.append(history.history["val_adv_accuracy"][-1])
    assert logs[0] == logs[1]


@pytest.mark.exhaustive
def test_a_list_of_callbacks_of_your_own_needs_no_parameters(tmp_path):
    path = tmp_path / "backup.npz"
    backups.fit(backups.make_model(), path, epochs=2, delete_checkpoint=False)
    model = backups.make_model()
    callbacks = keras.callbacks.CallbackList([kr.callbacks.AtomicBackup(path)], model=model)
    callbacks.on_train_begin()
    assert model._initial_epoch == 2
