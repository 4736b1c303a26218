"""Processes that were killed: what is half written is never read, and what resumes is the same."""

import json
import re
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import backends
from tests.support import kills

pytestmark = pytest.mark.exhaustive

KILLED, CUT_OFF = -signal.SIGKILL, -signal.SIGXFSZ

# A backup is three events before the first epoch: folder, open, remove; and in each epoch four:
# folder, open, rename, remove what is left.
TRAININGS = {
    "in the second epoch": {"batch": 5},
    "before the first rename": {"event": 6},
    "before the second file": {"event": 9},
    "before the backup is deleted": {"event": 20},
    "in a write": {"bytes": 1500},
}
EVALUATIONS = {"before a rename": {"event": 7}, "in a write": {"bytes": 1200}}
EXPORTS = {
    "early": {"event": 3},
    "before its name appears": {"event": "os.rename"},
    "in a write": {"bytes": 2000},
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """The folders of all tasks, how they ended, and how they ended when they were run again."""
    root = tmp_path_factory.mktemp("kills")
    tasks = [{"work": "train", "folder": root / "train"}]
    tasks += [{"work": "evaluate", "folder": root / "evaluate"}]
    for work, group in (("train", TRAININGS), ("evaluate", EVALUATIONS), ("export", EXPORTS)):
        tasks += [
            {"work": work, "folder": root / f"{work} {name}", **kill}
            for name, kill in group.items()
        ]
    if not backends.IS_JAX:
        tasks += [
            {"work": "train_replicas", "folder": root / "two devices"},
            {"work": "train_replicas", "folder": root / "two devices killed", "batch": 5},
        ]
    tasks += [{"work": "save", "folder": root / "save", "bytes": 5000}]
    first = kills.run_all(tasks)
    left = {task["folder"].name: _listing(task["folder"]) for task in tasks}
    done = {
        name: kr.callbacks.AtomicBackup(root / f"train {name}" / "backup.npz").epochs_done()
        for name in TRAININGS
    }
    again = [
        {"work": task["work"], "folder": task["folder"]}
        for task in tasks
        if task["work"] != "save" and ("event" in task or "bytes" in task or "batch" in task)
    ]
    assert kills.run_all(again) == [0] * len(again)
    named = {task["folder"].name: end for task, end in zip(tasks, first, strict=True)}
    return root, named, left, done


def _listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _finished(folder):
    """The files without those that were left half written, which no name tells in advance."""
    return [path for path in _listing(folder) if not path.endswith(".partial")]


def _weights(folder):
    with np.load(folder / "weights.npz") as file:
        return [file[name] for name in file.files]


def test_all_were_killed_where_they_should(ends):
    _, named, left, done = ends
    assert named.pop("train") == named.pop("evaluate") == named.pop("two devices", 0) == 0
    for name, end in named.items():
        assert end == (CUT_OFF if name == "save" or "in a write" in name else KILLED), name
    assert list(done.values()) == [1, 0, 1, 4, 0]
    for name, kept in (
        ("train before the first rename", [".backup.npz.PARTIAL"]),
        ("train in a write", [".backup.npz.PARTIAL"]),
        ("evaluate in a write", [".state.npz.PARTIAL"]),
        ("evaluate before a rename", [".state.npz.PARTIAL", "state.npz"]),
    ):
        assert [re.sub("[0-9a-f]{16}.partial", "PARTIAL", item) for item in left[name]] == kept


@pytest.mark.parametrize("name", TRAININGS)
def test_a_killed_training_goes_on_to_the_same_weights(ends, name):
    root = ends[0]
    expected = _weights(root / "train")
    assert len(expected) == 5
    for one, other in zip(_weights(root / f"train {name}"), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert _finished(root / f"train {name}") == ["weights.npz"]


@backends.tensorflow_only("JAX has no strategies")
def test_a_killed_training_on_two_devices_goes_on_to_the_same_weights(ends):
    root = ends[0]
    pairs = zip(_weights(root / "two devices killed"), _weights(root / "two devices"), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_killed_evaluation_goes_on_to_the_same_report(ends, name):
    root, plain = ends[0], []
    for folder in (root / "evaluate", root / f"evaluate {name}"):
        report = json.loads((folder / "report.json").read_text())
        for part in (report, *report["attacks"]):
            part.pop("seconds")
        plain.append((report, np.load(folder / "x_adv.npz")["arr_0"].tolist()))
        assert _finished(folder) == ["report.json", "x_adv.npz"]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("name", EXPORTS)
def test_a_killed_export_is_no_version_and_can_be_made_again(ends, name):
    root, _, left, _ = ends
    tops = {path.split("/")[1] for path in left[f"export {name}"] if "/" in path}
    assert all(top.startswith(".1.") for top in tops)
    path = root / f"export {name}" / "served" / "1"
    loaded = tf.saved_model.load(str(path))
    assert loaded.signatures["logits"](tf.zeros((2, 4)))["logits"].shape == (2, 3)
    assert json.loads((path / "assets.extra" / "robustness.json").read_text())["report"]


def test_a_keras_file_that_was_cut_off_is_no_model(ends):
    # Keras writes in place; the index of the archive comes last.
    root, _, left, _ = ends
    assert left["save"] == ["model.keras"]
    with pytest.raises((OSError, ValueError)):
        keras.models.load_model(root / "save" / "model.keras")
