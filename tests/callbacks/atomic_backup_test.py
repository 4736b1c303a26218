import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import devices
from tests.support import linear_fit

X, Y = linear_fit.data()


def _model(make_layers=list, **arguments):
    keras.utils.set_random_seed(0)
    return linear_fit.make_model(make_layers(), **arguments)


def _fit(model, path, epochs=4, stop=None, callbacks=(), **arguments):
    """Fits with a backup, and stops at the beginning of an epoch."""

    def fail(epoch, logs):
        if epoch == stop:
            raise RuntimeError("stopped")

    backup = [] if path is None else [kr.callbacks.AtomicBackup(path, **arguments)]
    stopper = keras.callbacks.LambdaCallback(on_epoch_begin=fail)
    return model.fit(
        X,
        Y,
        batch_size=8,
        shuffle=False,
        epochs=epochs,
        verbose=0,
        callbacks=[*backup, stopper, *callbacks],
    )


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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, optimizer):
    path = tmp_path / "deep" / "backup.npz"
    make = OPTIMIZERS[optimizer]
    callbacks = [kr.AdvTrain(kr.Linf(0.1), attack=kr.attacks.PGD(num_steps=1), warmup=8)]
    whole, first, second = (_model(_random_layers, optimizer=make()) for _ in range(3))
    _fit(whole, None, callbacks=callbacks)
    with pytest.raises(RuntimeError, match="stopped"):
        _fit(first, path, stop=2, callbacks=callbacks)
    assert [item.name for item in path.parent.iterdir()] == ["backup.npz"]
    history = _fit(second, path, callbacks=callbacks)
    assert history.epoch == [2, 3]
    for one, other in zip(whole.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    pairs = zip(whole.optimizer.variables, second.optimizer.variables, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert list(path.parent.iterdir()) == []


def test_the_seeds_of_random_layers_are_in_it(tmp_path):
    path = tmp_path / "backup.npz"
    model = _model(_random_layers)
    _fit(model, path, epochs=1, delete_checkpoint=False)
    state = np.array(model.layers[1].seed_generator.state)
    keras.utils.set_random_seed(1)
    again = linear_fit.make_model(_random_layers())
    assert np.any(np.array(again.layers[1].seed_generator.state) != state)
    _fit(again, path, epochs=1, delete_checkpoint=False)
    np.testing.assert_array_equal(again.layers[1].seed_generator.state, state)


def test_what_is_kept_makes_the_same_call_a_training_of_no_epochs(tmp_path):
    path = tmp_path / "backup.npz"
    first, second = _model(), _model()
    assert kr.callbacks.AtomicBackup(path).epochs_done() == 0
    _fit(first, path, delete_checkpoint=False)
    assert kr.callbacks.AtomicBackup(path).epochs_done() == 4
    assert _fit(second, path, delete_checkpoint=False).epoch == []
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
        _fit(model, path, epochs=2, delete_checkpoint=False)
    for one, other in zip(models[0].variables, models[1].variables, strict=True):
        assert one.dtype == "bfloat16"
        np.testing.assert_array_equal(np.asarray(one, "float32"), np.asarray(other, "float32"))


@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
def test_two_devices(tmp_path):
    path, results = tmp_path / "backup.npz", []
    for stop in (None, 2):
        with devices.mirrored(2).scope():
            model = _model(optimizer=keras.optimizers.Adam(0.05))
        if stop:
            with pytest.raises(RuntimeError, match="stopped"):
                _fit(model, path, stop=stop)
            with devices.mirrored(2).scope():
                model = _model(optimizer=keras.optimizers.Adam(0.05))
        _fit(model, path)
        results.append(model.get_weights()[0])
    np.testing.assert_array_equal(*results)


@backends.tensorflow_only("on JAX Keras builds a model before any callback")
def test_a_model_that_is_not_built_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="before the first batch.*Received: .* is not built"):
        _fit(model, tmp_path / "backup.npz")


def test_the_backup_of_another_model_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "backup.npz"
    _fit(_model(), path, epochs=1, delete_checkpoint=False)
    before = path.read_bytes()
    other = _model(lambda: [keras.layers.Dense(4)])
    start = other.get_weights()
    with pytest.raises(ValueError, match="of another model or optimizer.*Received: .*3 arrays"):
        _fit(other, path)
    with pytest.raises(ValueError, match="of another model or optimizer"):
        _fit(_model(optimizer="adam"), path)
    assert path.read_bytes() == before
    for one, kept in zip(other.get_weights(), start, strict=True):
        np.testing.assert_array_equal(one, kept)


class _Double(kr.objectives.Adversarial):
    """An objective with arguments that no file holds."""

    def __init__(self, attack=None, function=None):
        super().__init__()
        self.attack = attack
        self.function = function


OTHER_TRAININGS = {
    "'epsilon': 0.2": {"threat_model": kr.Linf(0.2)},
    "'decay_steps'": {"threat_model": kr.Linf(keras.optimizers.schedules.CosineDecay(0.1, 4))},
    "'class': 'L2'": {"threat_model": kr.L2(0.1)},
    "'num_steps': 1": {"attack": kr.attacks.PGD(num_steps=2)},
    "'class': 'PGD'": {"attack": kr.attacks.FGSM()},
    "objective={'class': 'Adversarial'": {"objective": "trades"},
    "warmup=0, not 20%": {"warmup": "20%"},
    "seed=0, not 1": {"seed": 1},
    "attack_dtype=None, not bfloat16": {"attack_dtype": "bfloat16"},
}


def _adv_train(**changes):
    settings = {"threat_model": kr.Linf(0.1), "attack": kr.attacks.PGD(num_steps=1), "warmup": 0}
    return kr.AdvTrain(**{**settings, **changes})


@pytest.mark.parametrize("named", OTHER_TRAININGS)
def test_the_backup_of_another_training_is_refused_and_left_alone(tmp_path, named):
    path = tmp_path / "backup.npz"
    _fit(_model(), path, epochs=1, callbacks=[_adv_train()], delete_checkpoint=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="of another training.*Received: .*with ") as caught:
        _fit(_model(), path, callbacks=[_adv_train(**OTHER_TRAININGS[named])])
    assert named in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("first", [True, False])
def test_plain_and_adversarial_training_are_told_apart(tmp_path, first):
    path = tmp_path / "backup.npz"
    callbacks = {True: [_adv_train()], False: []}
    _fit(_model(), path, epochs=1, callbacks=callbacks[first], delete_checkpoint=False)
    message = "with AdvTrain, which" if first else "without AdvTrain"
    with pytest.raises(ValueError, match=f"of another training.*Received: .*{message}"):
        _fit(_model(), path, callbacks=callbacks[not first])


class _Bare(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule with nothing but what a schedule needs."""

    def __call__(self, step):
        return 0.1


class _Own(kr.AdvTrain):
    """A callback with an argument of its own."""

    def __init__(self, *arguments, power, **others):
        super().__init__(*arguments, **others)
        self.power = power


SAME_TRAININGS = {
    "defaults": lambda: kr.AdvTrain(),
    "fraction": lambda: kr.AdvTrain("linf", warmup="20%"),
    "radius and bounds of arrays": lambda: kr.AdvTrain(
        kr.Linf(np.float32(0.1), bounds=(np.zeros(4), np.ones(4, "float32")))
    ),
    "tensor": lambda: kr.AdvTrain(kr.L2(0.5).scaled(keras.ops.convert_to_tensor(0.3))),
    "schedule": lambda: kr.AdvTrain(kr.L1(keras.optimizers.schedules.CosineDecay(0.1, 4))),
    "bare schedule": lambda: kr.AdvTrain(kr.Linf(_Bare())),
    "wrapped": lambda: kr.AdvTrain(objective=kr.objectives.AWP(0.01, "trades")),
    "teacher": lambda: kr.AdvTrain(objective=kr.objectives.ARD(_model())),
    "own": lambda: _Own(kr.Linf(0.1), power=3),
}


@pytest.mark.parametrize("name", SAME_TRAININGS)
def test_the_backup_of_the_same_training_is_taken_up(tmp_path, name):
    path = tmp_path / "backup.npz"
    for epochs in (1, 2):
        callbacks = [SAME_TRAININGS[name]()]
        history = _fit(_model(), path, epochs, callbacks=callbacks, delete_checkpoint=False)
    assert history.epoch == [1]


def test_arguments_of_a_subclass_and_radii_in_tensors_are_told_apart(tmp_path):
    path = tmp_path / "backup.npz"
    pairs = [
        ([_Own(kr.Linf(0.1), power=3)], [_Own(kr.Linf(0.1), power=1)], "power=3, not 1"),
        ([_Own(kr.Linf(0.1), power=3)], [kr.AdvTrain(kr.Linf(0.1))], "class=_Own, not AdvTrain"),
        ([kr.AdvTrain(kr.Linf(0.1).scaled(1.0))], [kr.AdvTrain(kr.Linf(0.1).scaled(2.0))], "0.2"),
    ]
    for first, second, message in pairs:
        _fit(_model(), path, epochs=1, callbacks=first, delete_checkpoint=False)
        with pytest.raises(ValueError, match=f"of another training.*{message}"):
            _fit(_model(), path, callbacks=second)
        path.unlink()


def test_it_may_stand_elsewhere_when_it_goes_on(tmp_path):
    path, found = tmp_path / "backup.npz", []
    for place in (0, 2):
        stopping = keras.callbacks.EarlyStopping("loss", patience=9)
        validation = kr.RobustValidation((X, Y), kr.Linf(0.1), attack="fgsm")
        callbacks = [stopping, validation]
        callbacks.insert(place, kr.callbacks.AtomicBackup(path, delete_checkpoint=False))
        _model().fit(X, Y, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        found.append((stopping.best, validation._latest))
    assert found[0] == found[1] and found[0][1] is not None


def test_fewer_epochs_than_are_done_are_refused_and_lose_nothing(tmp_path):
    path = tmp_path / "backup.npz"
    _fit(_model(), path, epochs=3, delete_checkpoint=False)
    with pytest.raises(ValueError, match="has 3 epochs behind it, more than .*and epochs=2"):
        _fit(_model(), path, epochs=2)
    assert kr.callbacks.AtomicBackup(path).epochs_done() == 3


def test_more_epochs_go_on_with_the_warm_up_of_the_first_call(tmp_path):
    path, found = tmp_path / "backup.npz", {}
    for epochs in (2, 4):
        adversarial = kr.AdvTrain(kr.Linf(0.1), attack="fgsm", warmup="50%", clean_epochs=1)
        spy = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs, one=adversarial: found.update({epoch: one._ramp})
        )
        _fit(_model(), path, epochs, callbacks=[adversarial, spy], delete_checkpoint=False)
    # Three batches an epoch.
    assert found == {0: (3, 3), 1: (3, 3), 2: (3, 3), 3: (3, 3)}


def test_callbacks_in_another_order_remember(tmp_path):
    path, found = tmp_path / "backup.npz", []
    for order in (1, -1):
        stopping = keras.callbacks.EarlyStopping("loss", patience=9)
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=9)
        callbacks = [stopping, plateau][::order]
        _fit(_model(), path, epochs=2, callbacks=callbacks, delete_checkpoint=False)
        found.append((stopping.best, plateau.best))
    assert found[0] == found[1] and None not in found[0]


@pytest.mark.parametrize("path", [None, 5, ["backup.npz"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="`path` must be the path of a file.*Received: path="):
        kr.callbacks.AtomicBackup(path)


def test_a_file_that_cannot_be_written_is_told_before_the_first_epoch(tmp_path):
    (tmp_path / "file").write_text("")
    model = _model()
    start = model.get_weights()[0]
    with pytest.raises(ValueError, match="cannot be written: give another path. Received: .*file"):
        _fit(model, tmp_path / "file" / "backup.npz")
    np.testing.assert_array_equal(model.get_weights()[0], start)


def test_objectives_with_functions_go_on(tmp_path):
    path = tmp_path / "backup.npz"
    for epochs in (1, 2):
        objective = _Double(attack=kr.attacks.FGSM(), function=lambda: None)
        callbacks = [_adv_train(objective=objective)]
        history = _fit(_model(), path, epochs, callbacks=callbacks, delete_checkpoint=False)
    assert history.epoch == [1]


def _meta(**changes):
    meta = {"schema": "keras_robust.backup", "schema_version": 2, "epoch": 1, "training": None}
    meta = {**meta, "callbacks": {}, **changes}
    return {"meta": np.array(json.dumps(meta)), "variable_0": np.zeros(3)}


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros(3)},
        {"meta": np.array("{}")},
        _meta(schema="another"),
        _meta(schema_version=1),
        _meta(epoch="1"),
        _meta(epoch=0),
        {**_meta(), "variable_1": np.array([{}], dtype=object)},
        {"meta": _meta()["meta"], "variable_5": np.zeros(3)},
    ],
)
def test_what_is_no_backup_is_refused(tmp_path, arrays):
    path = tmp_path / "backup.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="Expected a backup of AtomicBackup.*Received: "):
        _fit(_model(), path)
    assert path.exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_part_of_a_backup_is_refused(tmp_path, share):
    path = tmp_path / "backup.npz"
    _fit(_model(), path, epochs=1, delete_checkpoint=False)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="Expected a backup of AtomicBackup.*Received: "):
        _fit(_model(), path)


def test_a_full_disk_leaves_the_backup_before(tmp_path, monkeypatch):
    path = tmp_path / "backup.npz"
    _fit(_model(), path, epochs=1, delete_checkpoint=False)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"PK half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        _fit(_model(), path, epochs=2)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["backup.npz"]


def _keeping(folder):
    """What Keras has for the best epoch, in front of which stands the backup."""
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
    """Says that the second epoch is the best."""

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
                _model(optimizer="adam").fit(X, Y, verbose=0, callbacks=callbacks, **arguments)
        model, callbacks = _model(optimizer="adam"), _keeping(folder)
        history = model.fit(X, Y, verbose=2, callbacks=callbacks, **arguments)
        saved = _model(optimizer="adam")
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
    model = _model()
    model.fit(X, Y, epochs=3, verbose=0, callbacks=kept)
    again = callbacks()
    _model().fit(X, Y, epochs=3, verbose=0, callbacks=again)
    assert kept[1].best > kept[2].best
    for one, other in zip(kept[1:], again[1:], strict=True):
        assert (one.best, one.wait) == (other.best, other.wait)


def test_a_training_that_stopped_early_is_over(tmp_path):
    def fit(patience):
        model = _model(optimizer="adam")
        stopping = keras.callbacks.EarlyStopping(
            "score", mode="max", patience=patience, restore_best_weights=True
        )
        backup = kr.callbacks.AtomicBackup(tmp_path / "backup.npz", delete_checkpoint=False)
        callbacks = [backup, _Score(), stopping]
        history = model.fit(
            X, Y, batch_size=8, shuffle=False, epochs=6, verbose=0, callbacks=callbacks
        )
        return model.get_weights(), history.epoch

    first, epochs = fit(patience=2)
    again, none = fit(patience=2)
    assert (epochs, none) == ([0, 1, 2, 3], [])
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    # More patience is a reason to go on.
    assert fit(patience=9)[1] == [4, 5]


def test_averaged_weights_are_swapped_as_in_the_whole_training(tmp_path):
    path, results = tmp_path / "backup.npz", []
    for stop in (None, 2):
        average = {"use_ema": True, "ema_momentum": 0.5}
        if stop:
            swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            with pytest.raises(RuntimeError, match="stopped"):
                model = _model(optimizer=keras.optimizers.SGD(0.5, **average))
                _fit(model, path, stop=stop, callbacks=[swap])
        model = _model(optimizer=keras.optimizers.SGD(0.5, **average))
        _fit(model, path, callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])
        results.append(model.get_weights()[0])
    np.testing.assert_array_equal(*results)


def test_what_robust_validation_last_measured_is_repeated(tmp_path):
    path, logs = tmp_path / "backup.npz", []
    for stop in (None, 3):
        for end in (stop, None) if stop else (None,):
            validation = kr.RobustValidation(
                (X, Y), kr.Linf(0.1), attack=kr.attacks.FGSM(), every=2
            )
            model = _model()
            if end:
                with pytest.raises(RuntimeError, match="stopped"):
                    _fit(model, path, stop=end, callbacks=[validation])
            else:
                history = _fit(model, path, callbacks=[validation])
        logs.append(history.history["val_adv_accuracy"][-1])
    assert logs[0] == logs[1]


def test_a_list_of_callbacks_of_your_own_needs_no_parameters(tmp_path):
    path = tmp_path / "backup.npz"
    _fit(_model(), path, epochs=2, delete_checkpoint=False)
    model = _model()
    callbacks = keras.callbacks.CallbackList([kr.callbacks.AtomicBackup(path)], model=model)
    callbacks.on_train_begin()
    assert model._initial_epoch == 2
