import gzip
import hashlib
import pathlib
import struct

import numpy as np
import pytest

from keras_robust import datasets
from keras_robust.datasets import idx
from tests.support import refusals

_NAMES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]
_SOURCE = pathlib.Path(idx.SOURCES["fashion_mnist"])

needs_real_files = pytest.mark.skipif(
    not _SOURCE.is_dir(),
    reason=f"Debian's package dataset-fashion-mnist is not installed in {_SOURCE}",
)


def _packed(array):
    """Returns an array of bytes as a packed IDX file: two zeros, type 8, the axes, the sizes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


def _arrays(size=28):
    rng = np.random.default_rng(0)
    shapes = [(5, size, size), (5,), (3, size, size), (3,)]
    return [
        rng.integers(0, 10 if len(shape) == 1 else 256, shape).astype("uint8") for shape in shapes
    ]


def small_files(folder):
    """Returns a new folder with four small files."""
    folder.mkdir()
    for name, array in zip(_NAMES, _arrays(), strict=True):
        (folder / name).write_bytes(_packed(array))
    return folder


@pytest.fixture
def source(tmp_path):
    return small_files(tmp_path / "in")


def test_the_arrays_of_the_files(source):
    found = idx.read("kmnist", source)
    for array, expected in zip([*found["train"], *found["test"]], _arrays(), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == "uint8"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "an IDX file of bytes.*starts with nothing and has 0 bytes"),
        (lambda data: b"not gzip", "Expected a gzip file.*which is damaged: Not a gzipped file"),
        (lambda data: data[:-9], "Expected a gzip file"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "Expected a gzip file"),
        (lambda data: gzip.compress(b"\0\0\x0d\1\0\0\0\3" + bytes(12)), "starts with 00000d01"),
        (lambda data: gzip.compress(b"\0\0\x08\1\0\0\0\3" + bytes(2)), "and has 10 bytes"),
    ],
)
def test_damaged_files_are_refused(source, damage, message):
    path = source / _NAMES[3]
    path.write_bytes(damage(path.read_bytes()))
    with refusals.assert_refused(message):
        idx.read("kmnist", source)


def test_known_data_sets_have_the_published_contents(source, monkeypatch):
    with refusals.assert_refused(f"published {_NAMES[0]}, with SHA-256 ba891046.*/in/{_NAMES[0]}'"):
        idx.read("mnist", source)
    own = {
        name: hashlib.sha256(gzip.decompress((source / name).read_bytes())).hexdigest()
        for name in _NAMES
    }
    monkeypatch.setitem(idx._PUBLISHED, "mnist", own)
    assert len(idx.read("mnist", source)["train"][1]) == 5


def test_missing_files_are_named(source):
    (source / _NAMES[2]).unlink()
    (source / _NAMES[3]).unlink()
    with pytest.raises(FileNotFoundError) as error:
        idx.read("mnist", source)
    assert f"source='{source}', which lacks {_NAMES[2]}, {_NAMES[3]}." in str(error.value)
    assert "apt-get" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        idx.read("fashion_mnist", source)


def test_a_small_data_set_is_prepared_and_loaded(source, tmp_path):
    data_dir = str(tmp_path / "data")
    builder = idx.prepare("kmnist", source, data_dir)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 5,
        "test": 3,
    }
    # Nothing but the data set is left behind, and a second call needs no source.
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["kmnist"]
    idx.prepare("kmnist", "/no/such/folder", data_dir)
    x, y = datasets.load("kmnist", data_dir=data_dir).test
    images, labels = _arrays()[2:]
    # In another order.
    assert sorted(y) == sorted(labels)
    for label in np.unique(labels):
        found, expected = (x[y == label], images[labels == label][..., None] / 255.0)
        np.testing.assert_allclose(np.sort(found, 0), np.sort(expected, 0), rtol=1e-6)


def test_other_names_and_shapes_are_refused(source, tmp_path):
    with refusals.assert_refused("data set of TensorFlow Datasets.*name='no_such'"):
        idx.prepare("no_such", source, str(tmp_path))
    (source / _NAMES[0]).write_bytes(_packed(_arrays(8)[0]))
    with refusals.assert_refused(r"of shapes .*28, 28, 1.*images of shape \(5, 8, 8\)"):
        idx.prepare("kmnist", source, str(tmp_path))
    (source / _NAMES[0]).write_bytes(_packed(_arrays()[0][:4]))
    with refusals.assert_refused(r"images of shape \(4, 28, 28\) and labels of shape \(5,\)"):
        idx.prepare("kmnist", source, str(tmp_path))


def test_an_unwritable_folder_is_named(source, tmp_path):
    (tmp_path / "file").write_text("in the way")
    data_dir = str(tmp_path / "file" / "data")
    with pytest.raises(OSError, match=f"Received: data_dir='{data_dir}'"):
        idx.prepare("kmnist", source, data_dir)


@pytest.mark.exhaustive
@needs_real_files
def test_the_real_files(tmp_path):
    data_dir = str(tmp_path / "data")
    idx.prepare(data_dir=data_dir)
    dataset = datasets.load("fashion_mnist", data_dir=data_dir)
    x, y = (np.concatenate(pair) for pair in zip(dataset.train, dataset.validation, strict=True))
    # The classes are balanced, and 0.2860 and 0.3530 are the usual normalisation constants.
    np.testing.assert_array_equal(np.bincount(y), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test[1]), [1000] * 10)
    assert [len(part[1]) for part in dataset[1:4]] == [55000, 5000, 10000]
    np.testing.assert_allclose([x.mean(), x.std()], [0.2860, 0.3530], atol=5e-5)
    # The order of TensorFlow Datasets, on which the published results depend.
    np.testing.assert_array_equal(dataset.train[1][:10], [2, 1, 8, 4, 1, 9, 2, 2, 0, 2])
    assert dataset.label_names[9] == "Ankle boot"
