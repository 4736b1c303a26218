"""Files that are there as a whole or not at all.

Every writer fills a file of its own beside the target, with a name that nobody can guess, and that
takes the place of the target in one rename. Two writers of one path do not disturb each other: a
reader finds the whole file of the one or of the other, and the last to finish wins. What should be
kept by both needs two paths.

A symbolic link as the target stays a link: the file that it names is written.
"""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import time

import numpy as np

# After so many seconds nobody is still at work on a file that has not changed.
_LEFT_BEHIND = 24 * 3600


def write_text(path, text):
    """Writes a text file in UTF-8, as a whole or not at all."""
    with _replacing(path) as file:
        file.write(text.encode())


def write_arrays(path, arrays):
    """Writes a dict of arrays to an `.npz` file, as a whole or not at all."""
    with _replacing(path) as file:
        np.savez(file, **arrays)


def check_writable(path):
    """Raises `ValueError` if a file cannot be written, before there is anything to lose."""
    try:
        temporary = _temporary(_target(path))
        with open(temporary, "xb"):
            pass
        temporary.unlink()
    except OSError as error:
        raise ValueError(
            f"The file cannot be written: give another path. Received: {path} and the error {error}"
        ) from error


def _target(path):
    """Returns the file that is to be there, behind all links, and makes the folders above it."""
    target = pathlib.Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_file():
        # The rename would put a file in the place of a device or a socket.
        raise OSError(errno.EINVAL, "What is there is no file", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _temporary(target):
    """Returns a new path beside the target. Mode `x` opens it: it follows no link."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")


@contextlib.contextmanager
def _replacing(path):
    """Yields an open file that takes the place of `path` once it is written.

    A reader never sees half of it, not even after a power cut; a failure leaves the old file.
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
    """Deletes what writers that were killed have left beside a target a day ago or earlier."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.partial")
    # Another writer may be faster.
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _LEFT_BEHIND:
                    os.unlink(entry.path)
