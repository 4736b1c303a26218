import numpy as np
import pytest

from keras_robust import atomic


def test_text_is_written_in_utf_8(tmp_path):
    for text in ("first", "zwölf ε\n"):
        atomic.write_text(str(tmp_path / "deep" / "file.txt"), text)
    assert (tmp_path / "deep" / "file.txt").read_bytes() == "zwölf ε\n".encode()
    assert [item.name for item in (tmp_path / "deep").iterdir()] == ["file.txt"]


def test_arrays_are_read_again(tmp_path):
    arrays = {"vector": np.arange(3), "scalar": np.float32(0.1), "text": np.array("ε")}
    atomic.write_arrays(tmp_path / "arrays.npz", arrays)
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as found:
        assert sorted(found.files) == sorted(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    assert [item.name for item in tmp_path.iterdir()] == ["arrays.npz"]


WRITERS = {
    "text": lambda path: atomic.write_text(path, "new"),
    "arrays": lambda path: atomic.write_arrays(path, {"new": np.arange(3)}),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, writer, name):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(atomic.os if name == "fsync" else atomic.pathlib.Path, name, fail)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[writer](path)
    monkeypatch.undo()
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
