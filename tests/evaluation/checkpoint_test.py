import json
import pathlib

import numpy as np
import pytest

from keras_robust.evaluation import checkpoint as module
from keras_robust.evaluation.checkpoint import Checkpoint
from keras_robust.sealed import sealed
from tests.support import refusals

IDENTITY = {"data": "abc", "attacks": ["pgd", "fgsm"], "seed": 3}
LOGITS = {"logits": np.arange(6.0).reshape(3, 2)}
STATE = {"reports": [{"accuracy": None}], "seconds": 0.1}


def _arrays():
    return {
        "robust": np.array([True, False, True]),
        "x": np.random.default_rng(0).normal(size=(3, 4)).astype("float32"),
        "far": np.array([np.inf, 0.0]),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "down" / "state.npz"


def test_load_returns_the_saved_state(path):
    Checkpoint(str(path), IDENTITY, LOGITS).save(STATE, _arrays())
    state, arrays = Checkpoint(path, IDENTITY, LOGITS).load()
    assert state == STATE
    assert set(arrays) == set(_arrays())
    for name, array in _arrays().items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


def test_load_returns_the_last_state(path):
    checkpoint = Checkpoint(path, IDENTITY, LOGITS)
    assert checkpoint.load() is None
    checkpoint.save({"turn": 1}, {"x": np.zeros(2)})
    checkpoint.save({"turn": 2}, {})
    assert checkpoint.load() == ({"turn": 2}, {})
    checkpoint.remove()
    checkpoint.remove()
    assert not path.exists() and checkpoint.load() is None


def test_without_a_path_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "SECONDS", 0.0)
    checkpoint = Checkpoint(None, IDENTITY, LOGITS)
    checkpoint.save(STATE, _arrays())
    assert not checkpoint.is_due and checkpoint.load() is None
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_is_due_some_time_after_the_last_save(path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    checkpoint = Checkpoint(path, IDENTITY, LOGITS)
    clock[0] += module.SECONDS - 0.1
    assert not checkpoint.is_due
    clock[0] += 0.2
    assert checkpoint.is_due
    checkpoint.save(STATE, {})
    assert not checkpoint.is_due


def test_the_seconds_of_all_runs_add_up(path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    for before in (0.0, 5.0, 10.0):
        checkpoint = Checkpoint(path, IDENTITY, LOGITS)
        checkpoint.load()
        assert checkpoint.seconds_before == before
        clock[0] += 5.0
        checkpoint.save(STATE, {})
        clock[0] += 1000.0


@pytest.mark.parametrize(
    "identity,logits,received",
    [
        ({**IDENTITY, "seed": 4}, LOGITS, "different seed$"),
        ({**IDENTITY, "data": "x", "attacks": ["pgd"]}, LOGITS, "different data, attacks$"),
        ({**IDENTITY, "version": "2"}, LOGITS, "different version$"),
        (IDENTITY, {"logits": LOGITS["logits"] + 0.1}, "different logits$"),
        (IDENTITY, {"logits": LOGITS["logits"][:2]}, "different logits$"),
        (IDENTITY, {"logits": np.full((3, 2), np.nan)}, "different logits$"),
        (IDENTITY, {**LOGITS, "more": np.zeros(1)}, "different more$"),
    ],
)
def test_the_state_of_another_evaluation_is_refused(path, identity, logits, received):
    Checkpoint(path, IDENTITY, LOGITS).save(STATE, _arrays())
    before = path.read_bytes()
    other = Checkpoint(path, identity, logits)
    message = f"state.npz belongs to another evaluation: delete the file.*Received: {received}"
    with refusals.assert_refused(message, folder=path.parent):
        other.load()
    assert path.read_bytes() == before


def test_logits_may_differ_by_rounding(path):
    Checkpoint(path, IDENTITY, LOGITS).save(STATE, {})
    logits = {"logits": LOGITS["logits"] * (1.0 + 1e-5)}
    assert Checkpoint(path, IDENTITY, logits).load() == (STATE, {})


def _truncated(path):
    Checkpoint(path, IDENTITY, LOGITS).save(STATE, _arrays())
    path.write_bytes(path.read_bytes()[:-100])


def _flipped(path):
    Checkpoint(path, IDENTITY, LOGITS).save(STATE, _arrays())
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(bytes(content))


def _foreign_arrays(path):
    np.savez(path, weights=np.zeros(3))


def _foreign_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def _foreign_meta(path):
    np.savez(path, meta=np.array('{"identity": 3}'))


def _objects(path):
    np.savez(path, meta=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("my thesis"),
        lambda path: path.mkdir(),
        _truncated,
        _flipped,
        _foreign_arrays,
        _foreign_array,
        _foreign_meta,
        _objects,
    ],
)
def test_other_files_are_refused_and_not_changed(path, write):
    path.parent.mkdir(parents=True)
    write(path)
    before = None if path.is_dir() else path.read_bytes()
    with refusals.assert_refused(
        "Expected a checkpoint of `evaluate` at .*Received: ", folder=path.parent
    ):
        Checkpoint(path, IDENTITY, LOGITS).load()
    assert path.exists() and (before is None or path.read_bytes() == before)


class _Payload:
    """An object whose pickle runs code when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_a_file_runs_no_code(path):
    path.parent.mkdir(parents=True)
    np.savez(path, meta=np.array([_Payload(path.with_name("ran"))], dtype=object))
    with refusals.assert_refused("Expected a checkpoint", folder=path.parent):
        Checkpoint(path, IDENTITY, LOGITS).load()
    assert not path.with_name("ran").exists()


def test_save_replaces_the_file_and_never_writes_into_it(path):
    checkpoint = Checkpoint(path, IDENTITY, LOGITS)
    checkpoint.save({"turn": 1}, {})
    before = path.read_bytes()
    with open(path, "rb") as reader:
        checkpoint.save({"turn": 2}, _arrays())
        assert reader.read() == before
    assert path.read_bytes() != before


def test_a_failed_save_keeps_the_old_state(path, monkeypatch):
    checkpoint = Checkpoint(path, IDENTITY, LOGITS)
    checkpoint.save({"turn": 1}, {})

    def full_disk(file, **arrays):
        file.write(b"PK half of it")
        # The half-written file has another name.
        assert Checkpoint(path, IDENTITY, LOGITS).load() == ({"turn": 1}, {})
        raise OSError("no space left on device")

    monkeypatch.setattr(module.np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save({"turn": 2}, {})
    assert checkpoint.load() == ({"turn": 1}, {})
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


def test_a_file_left_half_written_by_a_kill_is_not_read(path):
    checkpoint = Checkpoint(path, IDENTITY, LOGITS)
    path.parent.mkdir(parents=True)
    path.with_name(".state.npz.0123456789abcdef.partial").write_bytes(b"PK half of it")
    assert checkpoint.load() is None
    checkpoint.save(STATE, {})
    assert checkpoint.load() == (STATE, {})


def _content(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("name", ["meta", "fixed_logits", "robust", "x", "far", "digest"])
@pytest.mark.parametrize("change", ["missing", "other"])
def test_a_changed_field_is_refused(path, name, change):
    Checkpoint(path, IDENTITY, LOGITS).save(STATE, _arrays())
    content = _content(path)
    if change == "missing":
        del content[name]
    elif name == "meta":
        content[name] = np.array(str(content[name]).replace("0.1", "0.2"))
    elif name == "digest":
        content[name] = np.array("0" * 64)
    else:
        content[name] = np.ones_like(content[name])
    np.savez(path, **content)
    with refusals.assert_refused(
        "Expected a checkpoint of `evaluate` at .*delete the file", folder=path.parent
    ):
        Checkpoint(path, IDENTITY, LOGITS).load()


@pytest.mark.parametrize(
    "meta",
    [
        {"identity": IDENTITY, "state": STATE},
        {"identity": 3, "state": STATE, "seconds": 0.0},
        {"identity": IDENTITY, "state": STATE, "seconds": "long"},
        [IDENTITY, STATE, 0.0],
    ],
)
def test_a_valid_digest_does_not_make_a_wrong_field_valid(path, meta):
    path.parent.mkdir(parents=True)
    np.savez(path, **sealed({"meta": np.array(json.dumps(meta)), "fixed_logits": LOGITS["logits"]}))
    with refusals.assert_refused(
        "Expected a checkpoint of `evaluate` at .*delete the file", folder=path.parent
    ):
        Checkpoint(path, IDENTITY, LOGITS).load()
