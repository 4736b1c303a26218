"""Dicts of arrays in a file, with a digest that tells whether they are what was written.

The digest finds what has changed since. It is no signature: whoever writes a file on purpose can
write its digest too.
"""

import hashlib
import os

import numpy as np

_DIGEST = "digest"


def sealed(arrays):
    """Returns a dict of arrays and, as one more, the digest of all of them."""
    return {**arrays, _DIGEST: np.array(_digest(arrays))}


def read_sealed(path):
    """Returns the dict of arrays in an `.npz` file that `sealed` closed.

    Raises:
        Exception: of many kinds, for what is no such file; `ValueError` for one that has changed.
    """
    # NumPy leaves a broken file open that it opened itself.
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        size = sum(item.file_size for item in file.zip.infolist())
        if size > os.fstat(stream.fileno()).st_size:
            raise ValueError(f"a file of arrays that are larger than it, {size} bytes")
        arrays = {name: file[name] for name in file.files}
    if _DIGEST not in arrays:
        raise ValueError("a file without a digest, as other programs and older versions write it")
    digest = str(arrays.pop(_DIGEST))
    if digest != _digest(arrays):
        raise ValueError("a file whose content is not that of its digest: it was changed")
    return arrays


def _digest(arrays):
    """Returns the SHA-256 of names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name!r} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view("uint8"))
    return digest.hexdigest()
