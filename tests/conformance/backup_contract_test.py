"""What `BackupAndRestore` of Keras does when it is killed: the reasons for `AtomicBackup`."""

import keras
import numpy as np
import pytest

from tests.support import linear_fit


def _killed_backup(folder, monkeypatch, where):
    """Trains for three epochs with Keras's own backup, which is killed in the second saving."""
    model, backup = linear_fit.make_model(), keras.callbacks.BackupAndRestore(folder)
    saved = []
    original = backup._save_model

    def save():
        saved.append(1)
        if len(saved) == 2:
            model.save_weights(backup._weights_path, overwrite=True)
            if where == "in the weights":
                with open(backup._weights_path, "r+b") as file:
                    file.truncate(2000)
            raise RuntimeError("killed")
        original()

    monkeypatch.setattr(backup, "_save_model", save)
    with pytest.raises(RuntimeError, match="killed"):
        linear_fit.fit(model, backup, epochs=3)


def test_backup_and_restore_cannot_read_a_file_that_was_cut_off(tmp_path, monkeypatch):
    # The reason for `AtomicBackup`: it writes in place.
    _killed_backup(tmp_path, monkeypatch, "in the weights")
    with pytest.raises(OSError):
        linear_fit.fit(linear_fit.make_model(), keras.callbacks.BackupAndRestore(tmp_path))


@pytest.mark.exhaustive
def test_backup_and_restore_repeats_an_epoch_after_a_kill_between_its_two_files(
    tmp_path, monkeypatch
):
    _killed_backup(tmp_path, monkeypatch, "between")
    model = linear_fit.make_model()
    history = linear_fit.fit(model, keras.callbacks.BackupAndRestore(tmp_path), epochs=3)
    # Two epochs were in the weights, and two more came on top: four instead of three.
    assert history.epoch == [1, 2]
    assert int(np.array(model.optimizer.iterations)) == 4 * 3


@pytest.mark.exhaustive
def test_backup_and_restore_leaves_out_the_seeds_of_random_layers(tmp_path):
    states = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        dropout = keras.layers.Dropout(0.5)
        model = linear_fit.make_model([dropout])
        backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        history = linear_fit.fit(model, backup, epochs=1)
        states.append(np.array(dropout.seed_generator.state))
    assert history.epoch == []
    assert np.any(states[0] != states[1])
