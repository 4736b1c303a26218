import io
import zipfile

import numpy as np
import pytest

from keras_robust import sealed as module
from keras_robust.sealed import read_sealed
from keras_robust.sealed import sealed
from tests.support import refusals


def arrays():
    return {
        "numbers": np.arange(6.0).reshape(2, 3).T,
        "none": np.zeros((0, 2), "float32"),
        "truths": np.array([True, False]),
        "text": np.array("zwölf ε"),
        "scalar": np.array(np.nan),
    }


def test_sealed_arrays_round_trip(tmp_path):
    np.savez(tmp_path / "file.npz", **sealed(arrays()))
    found = read_sealed(tmp_path / "file.npz")
    assert found.keys() == arrays().keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


CHANGES = {
    "a number": lambda found: {**found, "numbers": found["numbers"] + 1e-9},
    "its place": lambda found: {**found, "numbers": found["numbers"][::-1]},
    "shape": lambda found: {**found, "numbers": found["numbers"].reshape(2, 3)},
    "dtype": lambda found: {**found, "truths": found["truths"].astype("int8")},
    "text": lambda found: {**found, "text": np.array("zwölf e")},
    "nan": lambda found: {**found, "scalar": np.array(0.0)},
    "another": lambda found: {**found, "new": np.zeros(1)},
    "missing": lambda found: {name: found[name] for name in found if name != "none"},
    "names": lambda found: {**found, "text": found["scalar"], "scalar": found["text"]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found(tmp_path, change):
    np.savez(tmp_path / "file.npz", **CHANGES[change](sealed(arrays())))
    with refusals.assert_refused(
        "that was changed: its content does not match", folder=tmp_path, times=0
    ):
        read_sealed(tmp_path / "file.npz")


def test_a_file_without_a_digest(tmp_path):
    np.savez(tmp_path / "file.npz", **arrays())
    with refusals.assert_refused("a file without a digest", folder=tmp_path, times=0):
        read_sealed(tmp_path / "file.npz")


def test_a_small_file_does_not_become_a_large_one(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "file.npz", **sealed({"zeros": np.zeros(10**6)}))
    read = []
    monkeypatch.setattr(module, "_digest", read.append)
    with refusals.assert_refused(
        "whose arrays are larger than the file, 8000512 bytes", folder=tmp_path, times=0
    ):
        read_sealed(tmp_path / "file.npz")
    assert not read


def test_a_header_with_too_large_a_shape_is_refused(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
    )
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        archive.writestr("zeros.npy", file.getvalue())
    with pytest.raises((MemoryError, ValueError)):
        read_sealed(tmp_path / "file.npz")
