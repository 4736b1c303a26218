import gzip
import hashlib
import pathlib
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_robust import datasets
from keras_robust.datasets import fashion_mnist
from tests.support import refusals

_NAMES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]

needs_real_files = pytest.mark.skipif(
    not pathlib.Path(fashion_mnist.SOURCE).is_dir(),
    reason=f"Debian's package dataset-fashion-mnist is not installed in {fashion_mnist.SOURCE}",
)


def _published(name, time, payload):
    """Returns `payload` as `gzip NAME` on Unix at that time writes it."""
    stream = gzip.compress(payload, mtime=0)[10:]
    header = struct.pack("<HBBLBB", 0x8B1F, 8, 8, time, 0, 3)
    return header + name.removesuffix(".gz").encode() + b"\x00" + stream


def _stripped(name, payload):
    """Returns `payload` as `gzip -n` writes it: without the name and the time."""
    return struct.pack("<HBBLBB", 0x8B1F, 8, 0, 0, 0, 3) + gzip.compress(payload, mtime=0)[10:]


@pytest.fixture
def published(monkeypatch):
    """Four small files in the place of the published ones; returns their bytes by name."""
    files = {}
    for time, name in enumerate(_NAMES, start=1504176606):
        files[name] = _published(name, time, name.encode() * 9)
        sha256 = hashlib.sha256(files[name]).hexdigest()
        monkeypatch.setitem(fashion_mnist._FILES, name, (time, sha256))
    return files


def _write(folder, files):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_checksums_and_names_are_those_of_tensorflow_datasets():
    registered = tfds.builder_cls("fashion_mnist").url_infos
    expected = {info.filename: info.checksum for info in registered.values()}
    assert {name: sha256 for name, (_, sha256) in fashion_mnist._FILES.items()} == expected


def test_the_stand_ins_are_gzip_files(published):
    for name, data in published.items():
        assert gzip.decompress(data) == gzip.decompress(_stripped(name, name.encode() * 9))


def test_stripped_headers_are_restored(tmp_path, published):
    source = _write(tmp_path / "in", {n: _stripped(n, n.encode() * 9) for n in _NAMES})
    destination = _write(tmp_path / "out", {})
    fashion_mnist.rebuild(source, destination)
    assert _read(destination) == published
    assert len(list(destination.iterdir())) == 4


def test_published_files_stay_as_they_are(tmp_path, published):
    source = _write(tmp_path / "in", published)
    destination = _write(tmp_path / "out", {})
    fashion_mnist.rebuild(str(source), str(destination))
    assert _read(destination) == published
    assert len(list(destination.iterdir())) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not gzip",
        lambda data: data[:-1],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
)
def test_damaged_files_are_refused(tmp_path, published, damage):
    name = "t10k-images-idx3-ubyte.gz"
    source = _write(tmp_path / "in", {**published, name: damage(published[name])})
    destination = _write(tmp_path / "out", {})
    with refusals.assert_refused(f"published {name}, with SHA-256 .*in/{name}'"):
        fashion_mnist.rebuild(source, destination)
    assert name not in _read(destination)


def test_missing_files_are_named(tmp_path, published):
    present = {name: published[name] for name in _NAMES[:2]}
    source = _write(tmp_path / "in", present)
    with pytest.raises(FileNotFoundError) as error:
        fashion_mnist.rebuild(source, tmp_path)
    assert f"source='{source}', which lacks {_NAMES[2]}, {_NAMES[3]}." in str(error.value)
    assert "apt-get install dataset-fashion-mnist" in str(error.value)


@needs_real_files
def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    data_dir = str(tmp_path / "file" / "data")
    with pytest.raises(OSError, match=f"Received: data_dir='{data_dir}'"):
        fashion_mnist.prepare(data_dir=data_dir)


@needs_real_files
def test_the_real_files(tmp_path):
    data_dir = str(tmp_path / "data")
    fashion_mnist.prepare(data_dir=data_dir)
    # Nothing but the data set is left behind, and a second call needs no source.
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["fashion_mnist"]
    fashion_mnist.prepare("/no/such/folder", data_dir)
    dataset = datasets.load("fashion_mnist", data_dir=data_dir)
    x, y = (np.concatenate(pair) for pair in zip(dataset.train, dataset.validation, strict=True))
    # The classes are balanced, and 0.2860 and 0.3530 are the usual normalisation constants.
    np.testing.assert_array_equal(np.bincount(y), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test[1]), [1000] * 10)
    assert [len(part[1]) for part in dataset[1:4]] == [55000, 5000, 10000]
    np.testing.assert_allclose([x.mean(), x.std()], [0.2860, 0.3530], atol=5e-5)
    assert dataset.label_names[9] == "Ankle boot"
