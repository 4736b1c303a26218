"""Folders that are there as a whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def atomic_directory(path):
    """Gives a hidden folder to fill, which takes the name `path` once all went well.

    What is in it is on the disk before it has the name. A process that is killed leaves the hidden
    folder, `.NAME.` and eight characters, behind.

    Args:
        path: str, the folder to make; its parents are made too, and go again where it fails. Must
            not exist.

    Raises:
        FileExistsError: if `path` exists, or appears meanwhile.
    """
    path = pathlib.Path(path)
    _check_absent(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A poller that watches the parent for version numbers does not see a hidden name.
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        partial.chmod(0o755)
        yield partial
        _flush(partial)
        _rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in missing:
            # What somebody else put there meanwhile stays.
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    _sync(path.parent)


def _check_absent(path, error=None):
    if path.exists() or error is not None:
        raise FileExistsError(
            "A served version is never changed: give a new folder, such as the next number. "
            f"Received: path={str(path)!r}, which exists"
        ) from error


def _rename(partial, path):
    # The system would replace an empty folder.
    _check_absent(path)
    try:
        partial.rename(path)
    except OSError as error:
        _check_absent(path, error if path.exists() else None)
        raise


def _flush(folder):
    """Writes a folder with all that is in it to the disk."""
    for item in [*folder.rglob("*"), folder]:
        _sync(item)


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
