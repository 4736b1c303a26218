import os

import pytest

from keras_robust.export.atomic_directory import atomic_directory
from tests.support import refusals


def test_the_name_appears_at_the_end(tmp_path):
    path = tmp_path / "models" / "1"
    with atomic_directory(path) as partial:
        (partial / "a").write_text("b")
        assert not path.exists()
        assert partial.parent == path.parent
        assert partial.name.startswith(".1.")
    assert (path / "a").read_text() == "b"
    assert [item.name for item in path.parent.iterdir()] == ["1"]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), atomic_directory(tmp_path / "1") as partial:
        (partial / "a").write_text("b")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays_unchanged(tmp_path):
    with refusals.assert_refused(
        "must never change.*Received: path=", folder=tmp_path, error=FileExistsError
    ):
        with atomic_directory(tmp_path):
            pass


def test_what_another_process_wrote_meanwhile_stays(tmp_path):
    path = tmp_path / "1"
    with pytest.raises(FileExistsError), atomic_directory(path) as partial:
        (partial / "a").write_text("mine")
        path.mkdir()
        (path / "a").write_text("theirs")
    assert (path / "a").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path] and len(list(path.iterdir())) == 1


def test_an_empty_folder_that_appears_meanwhile_stays(tmp_path):
    path = tmp_path / "1"
    with (
        pytest.raises(FileExistsError, match="must never change"),
        atomic_directory(path) as partial,
    ):
        (partial / "a").write_text("mine")
        path.mkdir()
    assert list(path.iterdir()) == [] and list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_taken_at_the_last_moment(tmp_path, monkeypatch):
    def rename(partial, path):
        path.mkdir()
        (path / "a").write_text("theirs")
        raise OSError("Directory not empty")

    monkeypatch.setattr("pathlib.Path.rename", rename)
    with (
        pytest.raises(FileExistsError, match="must never change"),
        atomic_directory(tmp_path / "1"),
    ):
        pass


def test_a_failure_removes_the_parents_that_it_made(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError), atomic_directory(tmp_path / "a" / "b" / "c" / "1"):
        (tmp_path / "a" / "b" / "theirs").write_text("")
        raise ValueError
    assert sorted(tmp_path.rglob("*")) == [
        tmp_path / "a",
        tmp_path / "a" / "b",
        tmp_path / "a" / "b" / "theirs",
    ]


def test_everything_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    written, path = [], tmp_path / "1"
    monkeypatch.setattr("os.fsync", lambda handle: written.append((_inode(handle), path.exists())))
    with atomic_directory(path) as partial:
        (partial / "b").mkdir()
        (partial / "b" / "c").write_text("d")
    places = [path / "b" / "c", path / "b", path]
    assert {(place.stat().st_ino, False) for place in places} == set(written[:-1])
    assert written[-1] == (tmp_path.stat().st_ino, True)


def _inode(handle):
    return os.fstat(handle).st_ino
