import pytest

from keras_robust.evaluation import atomic


def test_text_is_written_in_utf_8(tmp_path):
    for text in ("first", "zwölf ε"):
        atomic.write_text(str(tmp_path / "file.txt"), text)
    assert (tmp_path / "file.txt").read_bytes() == "zwölf ε".encode()
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("method", ["write_text", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, method):
    path = tmp_path / "file.txt"
    path.write_text("old")
    original = getattr(atomic.pathlib.Path, method)

    def fail(self, *arguments, **keywords):
        if method == "write_text":
            original(self, "half", encoding="utf-8")
        raise OSError("No space left on device")

    monkeypatch.setattr(atomic.pathlib.Path, method, fail)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(path, "new")
    monkeypatch.undo()
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"
