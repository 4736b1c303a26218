"""Folders that appear complete or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def atomic_directory(path):
    """Context that yields a hidden folder to fill, and renames it to `path` on success.

    The content is flushed to the disk before the folder gets its name. A process that is killed
    leaves the hidden folder behind; its name is `.NAME.` and eight characters.

    Args:
        path: str, the folder to make. It must not exist. Missing parents are made too, and removed
            again on failure.

    Raises:
        FileExistsError: if `path` exists, or appears meanwhile.
    """
    path = pathlib.Path(path)
    _check_absent(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A server that polls the parent for version numbers ignores a hidden name. The hidden folder
    # has the same parent, because a rename is atomic only within one file system.
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        # `mkdtemp` grants access to its owner alone, but the server may be another user.
        partial.chmod(0o755)
        yield partial
        _flush(partial)
        _rename(partial, path)
    # Ctrl-C must leave nothing behind, either.
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in missing:
            # A folder into which another process has written stays.
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    # The new name itself is stored in the parent.
    _sync(path.parent)


def _check_absent(path, error=None):
    if path.exists() or error is not None:
        raise FileExistsError(
            "A served version must never change: pass a new folder, for example the next number. "
            f"Received: path={str(path)!r}, which exists"
        ) from error


def _rename(partial, path):
    # `rename` would replace an empty folder without an error.
    _check_absent(path)
    try:
        partial.rename(path)
    except OSError as error:
        _check_absent(path, error if path.exists() else None)
        raise


def _flush(folder):
    """Flushes a folder and everything in it to the disk."""
    for item in [*folder.rglob("*"), folder]:
        _sync(item)


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
