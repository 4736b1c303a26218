"""Files that are there as a whole or not at all."""

import contextlib
import os
import pathlib

import numpy as np


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
        temporary = _temporary(path)
        with open(temporary, "wb"):
            pass
        temporary.unlink()
    except OSError as error:
        raise ValueError(
            f"The file cannot be written: give another path. Received: {path} and the error {error}"
        ) from error


def _temporary(path):
    """Returns where a file is until it is whole, and makes the folders above it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.partial")


@contextlib.contextmanager
def _replacing(path):
    """Yields an open file that takes the place of `path` once it is written.

    A reader never sees half of it, not even after a power cut; a failure leaves the old file. There
    is to be one writer at a time.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
