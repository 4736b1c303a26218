import collections
import os
import time
from concurrent import futures

import numpy as np
import pytest

from keras_robust import atomic
from tests.support import refusals


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
    with refusals.assert_refused("No space left", folder=tmp_path, error=OSError, times=0):
        WRITERS[writer](path)
    monkeypatch.undo()
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("writer", WRITERS)
def test_nobody_can_guess_the_name_of_the_temporary_file(tmp_path, monkeypatch, writer):
    names = []

    def note(handle):
        names.extend(item.name for item in tmp_path.iterdir())

    monkeypatch.setattr(atomic.os, "fsync", note)
    for _ in range(2):
        WRITERS[writer](tmp_path / "file")
    hidden = [name for name in names if name != "file"]
    assert len(set(hidden)) == 2 and all(len(name) >= len(".file.") + 16 for name in hidden)


def _guessed(monkeypatch):
    """Makes the random names predictable, as if somebody had guessed them."""
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: "0" * 2 * size)
    return f".file.{'0' * 16}.partial"


@pytest.mark.parametrize("writer", [*WRITERS, "check"])
@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_file_that_is_there_already_is_not_written_through(tmp_path, monkeypatch, writer, kind):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    if kind != "dangling":
        other.write_text("precious")
    trap = own / _guessed(monkeypatch)
    trap.write_text("precious") if kind == "file" else trap.symlink_to(other)
    write = {**WRITERS, "check": atomic.check_writable}[writer]
    with pytest.raises((OSError, ValueError)):
        write(own / "file")
    assert not (own / "file").exists() and other.exists() == (kind != "dangling")
    if kind != "dangling":
        assert other.read_text() == "precious"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_stays_and_its_file_is_written(tmp_path, writer):
    (tmp_path / "scratch").mkdir()
    link, file = tmp_path / "link", tmp_path / "scratch" / "file"
    (tmp_path / "between").symlink_to(file)
    link.symlink_to("between")
    for _ in range(2):
        WRITERS[writer](link)
        assert link.is_symlink() and file.is_file() and not file.is_symlink()
    assert [item.name for item in file.parent.iterdir()] == ["file"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["between", "link", "scratch"]


def _loop(path):
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_loop, os.mkfifo, os.mkdir])
def test_a_path_that_is_not_a_file_stays_unchanged(tmp_path, make):
    path = tmp_path / "file"
    make(path)
    before = os.lstat(path)
    with pytest.raises(ValueError, match="cannot be written: pass another path. Received: .*file"):
        atomic.check_writable(path)
    with pytest.raises(OSError, match="Expected a file"):
        atomic.write_text(path, "new")
    assert os.lstat(path).st_ino == before.st_ino
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_what_a_kill_left_is_deleted_after_a_day(tmp_path):
    def leave(name, age):
        (tmp_path / name).write_text("half of it")
        os.utime(tmp_path / name, (time.time() - age,) * 2)

    old, token = 25 * 3600, "0123456789abcdef"
    leave(f".file.{token}.partial", old)
    others = [f".file.{token[:-1]}0.partial", f".fileX{token}.partial", f".other.{token}.partial"]
    others += [f".file.{token}.partial.txt", "file.partial"]
    for name, age in zip(others, (23 * 3600, old, old, old, old), strict=True):
        leave(name, age)
    atomic.write_text(tmp_path / "file", "new")
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(["file", *others])


def test_two_writers_of_one_path_never_break_it(tmp_path):
    path, seen = tmp_path / "two.npz", collections.Counter()
    end = time.monotonic() + 0.25

    def write(number):
        while time.monotonic() < end:
            atomic.write_arrays(path, {"a": np.full(20_000, number, "int32")})

    with futures.ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, number) for number in range(2)]
        while not all(writer.done() for writer in writers):
            if path.exists():
                with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
                    values = set(found["a"].tolist())
                assert len(values) == 1 and values <= {0, 1}
                seen.update(values)
    # The results raise the errors of the writers.
    assert [writer.result() for writer in writers] == [None, None]
    assert seen.total() > 0
    assert [item.name for item in tmp_path.iterdir()] == ["two.npz"]
