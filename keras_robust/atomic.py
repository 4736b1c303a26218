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


@contextlib.contextmanager
def _replacing(path):
    """Yields an open file that takes the place of `path` once it is written.

    A reader never sees half of it, not even after a power cut; a failure leaves the old file. There
    is to be one writer at a time.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
