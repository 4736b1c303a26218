"""Data sets in the four IDX files of MNIST, such as Fashion-MNIST, prepared without a download."""

import gzip
import hashlib
import math
import pathlib
import struct
import tempfile
import zlib

import numpy as np

# Where Debian puts the files.
SOURCES = {"fashion_mnist": "/usr/share/datasets/fashion-mnist"}
_NAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
# SHA-256 of the unpacked files, as published: gzip headers differ between copies.
_PUBLISHED = {
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte.gz": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
    "mnist": {
        "train-images-idx3-ubyte.gz": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte.gz": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
}
_UINT8 = 8


def prepare(name="fashion_mnist", source=None, data_dir=None):
    """Prepares `tfds.load(name)` from four local files, in the order of TensorFlow Datasets.

    Call it once on a machine that cannot download the data set. The call takes about 20 seconds on
    two CPU cores. A data set that is already prepared does not change. The contents of MNIST and
    Fashion-MNIST must be the published ones.

    Args:
        name: string, the name of the data set in TensorFlow Datasets, such as `"mnist"`,
            `"fashion_mnist"` or `"kmnist"`: images of one channel. Defaults to `"fashion_mnist"`.
        source: string or path, the folder of the files
            `{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz`. Defaults to `None`, the folder of
            the Debian package `dataset-fashion-mnist`.
        data_dir: string, the folder of prepared TensorFlow data sets. Defaults to `None`, the
            default folder of TensorFlow Datasets.

    Returns:
        The `tfds.core.DatasetBuilder` of the prepared data set.

    Raises:
        FileNotFoundError: if `source` lacks one of the files.
        OSError: if `data_dir` cannot be written.
        ValueError: for an unknown name, and if a file is damaged or of another data set.
    """
    # Imported here, because it takes seconds to import and nothing else here needs it.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError, ImportError) as error:
        raise ValueError(
            f"Expected the name of a data set of TensorFlow Datasets. Received: name={name!r}"
        ) from error
    if builder.data_path.exists():
        return builder
    arrays = read(name, source)
    _check_shapes(builder, arrays)
    try:
        with tempfile.TemporaryDirectory() as downloads:
            tfds.dataset_builders.AdhocBuilder(
                name=name,
                version=str(builder.version),
                features=builder.info.features,
                split_datasets={split: _examples(*pair) for split, pair in arrays.items()},
                data_dir=data_dir,
            ).download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise OSError(
            "Expected a folder that can be written to. "
            f"Received: data_dir={data_dir!r}, in which {builder.data_path} failed: {error}"
        ) from error
    return tfds.builder(name, data_dir=data_dir)


def read(name, source=None):
    """Returns the images and labels in the files of a data set.

    Args:
        name: string, the name of the data set.
        source: string or path, the folder of the files, or `None`.

    Returns:
        Dict from `"train"` and `"test"` to pairs of uint8 arrays `(n, height, width)` and `(n,)`.

    Example:

    >>> from keras_robust.datasets import idx
    >>> idx.read("mnist", "/no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: Expected the 4 files of 'mnist'. ...
    """
    folder = pathlib.Path(source or SOURCES.get(name, "."))
    missing = [file for pair in _NAMES.values() for file in pair if not (folder / file).is_file()]
    if missing:
        advice = ""
        if name in SOURCES:
            advice = " On Debian: apt-get install dataset-fashion-mnist"
        raise FileNotFoundError(
            f"Expected the 4 files of {name!r}. Received: source={str(folder)!r}, which lacks "
            f"{', '.join(missing)}.{advice}"
        )
    published = _PUBLISHED.get(name, {})
    return {
        split: tuple(_read_file(folder / file, published.get(file)) for file in pair)
        for split, pair in _NAMES.items()
    }


def _read_file(path, sha256):
    """Returns the array in an IDX file: zero, the type, the number of axes, the sizes, the data."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"Expected a gzip file. Received: {str(path)!r}, which is damaged: {error}"
        ) from error
    received = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, received):
        raise ValueError(
            f"Expected the published {path.name}, with SHA-256 {sha256} when unpacked. Received: "
            f"{str(path)!r}, which gives {received}: it is damaged, or another file"
        )
    num_axes = data[3] if data[:3] == bytes([0, 0, _UINT8]) else 0
    start = 4 + 4 * num_axes
    shape = struct.unpack(f">{num_axes}I", data[4:start]) if len(data) >= start else ()
    if not shape or math.prod(shape) != len(data) - start:
        raise ValueError(
            f"Expected an IDX file of bytes. Received: {str(path)!r}, which starts with "
            f"{data[:4].hex() or 'nothing'} and has {len(data)} bytes"
        )
    return np.frombuffer(data, "uint8", offset=start).reshape(shape)


def _check_shapes(builder, arrays):
    """Raises `ValueError` unless the arrays are examples of the data set."""
    expected = builder.info.features.shape
    for split, (images, labels) in arrays.items():
        received = {"image": (*images.shape[1:], 1), "label": labels.shape[1:]}
        if received != expected or len(images) != len(labels):
            raise ValueError(
                f"Expected an image and a label for each example of {builder.name!r}, of shapes "
                f"{expected}. Received: {split} images of shape {images.shape} and labels of "
                f"shape {labels.shape}"
            )


def _examples(images, labels):
    """Returns pairs of a key and an example. TensorFlow Datasets shuffles by the keys."""
    pairs = zip(images[..., None], labels, strict=True)
    return [(index, {"image": x, "label": int(y)}) for index, (x, y) in enumerate(pairs)]
