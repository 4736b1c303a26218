"""What is no backup of this training is refused, and neither it nor the model changes."""

import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.sealed import sealed
from tests.support import backends
from tests.support import backups
from tests.support import refusals
from tests.support import tiers


@backends.tensorflow_only("on JAX Keras builds a model before any callback")
def test_a_model_that_is_not_built_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    with refusals.assert_refused(
        "before the first batch.*Received: .* is not built", model, tmp_path
    ):
        backups.fit(model, tmp_path / "backup.npz")


def test_the_backup_of_another_model_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "backup.npz"
    backups.fit(backups.make_model(), path, epochs=1, delete_checkpoint=False)
    before = path.read_bytes()
    other = backups.make_model(lambda: [keras.layers.Dense(4)])
    start = other.get_weights()
    with pytest.raises(
        ValueError, match="belongs to another model or optimizer.*Received: .*3 arrays"
    ):
        backups.fit(other, path)
    with pytest.raises(ValueError, match="belongs to another model or optimizer"):
        backups.fit(backups.make_model(optimizer="adam"), path)
    assert path.read_bytes() == before
    for one, kept in zip(other.get_weights(), start, strict=True):
        np.testing.assert_array_equal(one, kept)


def test_fewer_epochs_than_are_done_are_refused_and_lose_nothing(tmp_path):
    path = tmp_path / "backup.npz"
    first = backups.make_model(optimizer="adam")
    backups.fit(first, path, epochs=3, delete_checkpoint=False)
    model, stopping = backups.make_model(optimizer="adam"), keras.callbacks.EarlyStopping("loss")
    _assert_refused(model, path, "is from epoch 3, after the last .*and epochs=2", epochs=2)
    with pytest.raises(ValueError, match="is from epoch 3, after the last"):
        backups.fit(model, path, epochs=2, callbacks=[stopping])
    assert stopping.best is None or np.isinf(stopping.best)
    assert kr.callbacks.AtomicBackup(path).epochs_done() == 3


def _assert_refused(model, path, message, **arguments):
    """Asserts that `fit` raises, and that neither weights nor optimizer nor file have changed."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [np.array(variable) for variable in variables]
    content = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        backups.fit(model, path, **arguments)
    for one, kept in zip(variables, before, strict=True):
        np.testing.assert_array_equal(np.array(one), kept)
    assert path.read_bytes() == content
    # A plain `fit` starts at its beginning.
    assert backups.fit(model, None, epochs=1).epoch == [0]


def test_weights_that_are_nan_are_refused_and_change_nothing(tmp_path):
    path = tmp_path / "backup.npz"
    broken = backups.make_model(optimizer="adam")
    nan = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: broken.layers[-1].kernel.assign(
            np.full(broken.layers[-1].kernel.shape, np.nan)
        )
    )
    backups.fit(broken, path, epochs=1, callbacks=[nan], delete_checkpoint=False)
    message = "weights that are NaN.*Delete the file.*Received: .*with NaN in .*kernel"
    _assert_refused(backups.make_model(optimizer="adam"), path, message)


def _content(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    path = tmp_path_factory.mktemp("backup") / "backup.npz"
    stopping = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    model = backups.make_model(optimizer="adam")
    backups.fit(model, path, epochs=2, callbacks=[stopping], delete_checkpoint=False)
    return path


CHANGES = {
    "a weight": lambda found: {**found, "variable_0": 1.001 * found["variable_0"]},
    "a weight, to NaN": lambda found: {**found, "variable_1": np.nan * found["variable_1"]},
    "the epoch": lambda found: {
        **found,
        "meta": np.array(str(found["meta"]).replace('"epoch": 2', '"epoch": 1')),
    },
    "the best weights": lambda found: {
        name: array + name.startswith("EarlyStopping") if array.dtype.kind == "f" else array
        for name, array in found.items()
    },
    "the digest": lambda found: {**found, "digest": np.array("0" * 64)},
    "no digest": lambda found: {name: found[name] for name in found if name != "digest"},
    "one variable less": lambda found: {name: found[name] for name in found if "_3" not in name},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_refused_and_changes_nothing(tmp_path, backup, change):
    found = _content(backup)
    changed = CHANGES[change](found)
    same = [name in changed and np.array_equal(changed[name], found[name]) for name in found]
    assert not all(same)
    path = tmp_path / "backup.npz"
    np.savez(path, **changed)
    message = "Expected a backup of AtomicBackup at .*. Delete the file.*Received: .*digest"
    _assert_refused(backups.make_model(optimizer="adam"), path, message)


@pytest.mark.parametrize("path", [None, 5, ["backup.npz"]])
def test_what_is_no_path_is_refused(path):
    refusals.assert_argument_refused(
        kr.callbacks.AtomicBackup, "`path` must be the path of a file.*Received: path=", path=path
    )


def test_a_file_that_cannot_be_written_is_refused_before_the_first_epoch(tmp_path):
    (tmp_path / "file").write_text("")
    model = backups.make_model()
    start = model.get_weights()[0]
    with pytest.raises(ValueError, match="cannot be written: pass another path. Received: .*file"):
        backups.fit(model, tmp_path / "file" / "backup.npz")
    np.testing.assert_array_equal(model.get_weights()[0], start)


def _meta(**changes):
    meta = {"schema": "keras_robust.backup", "schema_version": 3, "epoch": 1, "training": None}
    meta = {**meta, "callbacks": {}, **changes}
    return {"meta": np.array(json.dumps(meta)), "variable_0": np.zeros(3)}


def test_the_intact_backup_is_accepted(tmp_path):
    np.savez(tmp_path / "backup.npz", **sealed(_meta()))
    assert kr.callbacks.AtomicBackup(tmp_path / "backup.npz").epochs_done() == 1


@tiers.parametrize(
    "arrays",
    [
        {"x": np.zeros(3)},
        {"meta": np.array("{}")},
        _meta(schema="another"),
        _meta(schema_version=2),
        _meta(epoch="1"),
        _meta(epoch=0),
        _meta(callbacks={"EarlyStopping_loss_1": {"state": {}, "num_weights": 1}}),
        _meta(callbacks=3),
        {"meta": _meta()["meta"], "variable_5": np.zeros(3)},
        {**_meta(), "variable_1": np.array([{}], dtype=object)},
    ],
)
def test_what_is_no_backup_is_refused(tmp_path, arrays):
    path = tmp_path / "backup.npz"
    has_objects = any(array.dtype.kind == "O" for array in arrays.values())
    np.savez(path, **(arrays if has_objects else sealed(arrays)))
    model = backups.make_model()
    message = "Expected a backup of AtomicBackup.*Received: "
    with refusals.assert_refused(message, model, tmp_path) as error:
        backups.fit(model, path)
    assert "digest" not in str(error.value)
    assert path.exists()


@tiers.parametrize("share", [0.0, 0.5, 0.99])
def test_a_part_of_a_backup_is_refused(tmp_path, share):
    path = tmp_path / "backup.npz"
    backups.fit(backups.make_model(), path, epochs=1, delete_checkpoint=False)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    model = backups.make_model()
    with refusals.assert_refused("Expected a backup of AtomicBackup.*Received: ", model, tmp_path):
        backups.fit(model, path)


def test_a_full_disk_leaves_the_backup_before(tmp_path, monkeypatch):
    path = tmp_path / "backup.npz"
    backups.fit(backups.make_model(), path, epochs=1, delete_checkpoint=False)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"PK half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with refusals.assert_refused("No space left", folder=tmp_path, error=OSError, times=0):
        backups.fit(backups.make_model(), path, epochs=2)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["backup.npz"]
