import pytest

from keras_robust.export.folder import new_folder


def test_the_name_appears_at_the_end(tmp_path):
    path = tmp_path / "models" / "1"
    with new_folder(path) as partial:
        (partial / "a").write_text("b")
        assert not path.exists()
        assert partial.parent == path.parent
        assert partial.name.startswith(".1.")
    assert (path / "a").read_text() == "b"
    assert [item.name for item in path.parent.iterdir()] == ["1"]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), new_folder(tmp_path / "1") as partial:
        (partial / "a").write_text("b")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_exists_stays(tmp_path):
    with pytest.raises(FileExistsError, match="never changed.*Received: path="):
        with new_folder(tmp_path):
            pass


def test_what_another_process_wrote_meanwhile_stays(tmp_path):
    path = tmp_path / "1"
    with pytest.raises(OSError), new_folder(path) as partial:
        (partial / "a").write_text("mine")
        path.mkdir()
        (path / "a").write_text("theirs")
    assert (path / "a").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]
