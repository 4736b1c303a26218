"""Files that are written completely or not at all.

Every writer fills a temporary file next to the target, with a random name, and then renames it to
the target in one step. Two writers of the same path do not disturb each other: a reader always
finds the complete file of one of them, and the last writer to finish wins. Use two paths to keep
both files.

If the target is a symbolic link, it stays a link, and the file that it points to is written.
"""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import time

import numpy as np

# A temporary file that has not changed for so many seconds belongs to a writer that was killed.
_LEFT_BEHIND = 24 * 3600


def write_text(path, text):
    """Writes a text file in UTF-8, completely or not at all."""
    with _replacing(path) as file:
        file.write(text.encode())


def write_arrays(path, arrays):
    """Writes a dict of arrays to an `.npz` file, completely or not at all."""
    with _replacing(path) as file:
        np.savez(file, **arrays)


def check_writable(path):
    """Raises `ValueError` if a file cannot be written. Call it before a long computation."""
    try:
        temporary = _temporary(_target(path))
        with open(temporary, "xb"):
            pass
        temporary.unlink()
    except OSError as error:
        raise ValueError(
            f"The file cannot be written: pass another path. Received: {path} and the error {error}"
        ) from error


def _target(path):
    """Returns the path behind all symbolic links, and makes its parent folders."""
    target = pathlib.Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_file():
        # The rename would replace a device or a socket by a file.
        raise OSError(errno.EINVAL, "Expected a file", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _temporary(target):
    """Returns a new path next to the target. Open it with mode `x`, which follows no link."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")


@contextlib.contextmanager
def _replacing(path):
    """Context that yields an open file, which replaces `path` once it is written.

    A reader never sees an incomplete file, not even after a power cut. A failure keeps the old
    file.
    """
    target = _target(path)
    _sweep(target)
    temporary = _temporary(target)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(target):
    """Deletes temporary files that killed writers left next to a target at least a day ago."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.partial")
    # Another writer may delete the same file first.
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _LEFT_BEHIND:
                    os.unlink(entry.path)
