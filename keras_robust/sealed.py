"""Files with a dict of arrays and a digest that detects changes.

The digest detects accidental changes. It is not a signature: a person who forges a file can compute
its digest too.
"""

import hashlib
import os

import numpy as np

_DIGEST = "digest"


def sealed(arrays):
    """Returns the dict of arrays with one more entry, the digest of all arrays."""
    return {**arrays, _DIGEST: np.array(_digest(arrays))}


def read_sealed(path):
    """Returns the dict of arrays in an `.npz` file that was written with `sealed`.

    Raises:
        ValueError: for a file that has changed, or has no digest.
        Exception: of many other types, for a file that is not a readable `.npz` file.
    """
    # NumPy does not close a broken file that it opened itself, so open it here.
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        size = sum(item.file_size for item in file.zip.infolist())
        if size > os.fstat(stream.fileno()).st_size:
            # A small compressed file could fill the memory.
            raise ValueError(f"a file whose arrays are larger than the file, {size} bytes")
        arrays = {name: file[name] for name in file.files}
    if _DIGEST not in arrays:
        raise ValueError("a file without a digest, written by another program or an older version")
    digest = str(arrays.pop(_DIGEST))
    if digest != _digest(arrays):
        raise ValueError(f"a file that was changed: its content does not match its digest {digest}")
    return arrays


def _digest(arrays):
    """Returns the SHA-256 of the names, dtypes, shapes and bytes of the arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name!r} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view("uint8"))
    return digest.hexdigest()
