"""Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747) without a download, from Debian's files."""

import hashlib
import pathlib
import struct
import tempfile

SOURCE = "/usr/share/datasets/fashion-mnist"

# Each published file: the time in its gzip header, and the SHA-256 in TensorFlow Datasets.
_FILES = {
    "train-images-idx3-ubyte.gz": (
        1504176606,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte.gz": (
        1504176606,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte.gz": (
        1504176627,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        1504176627,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}

# RFC 1952, section 2.3: identification and "deflate"; the flag of a header that ends with a name.
_MAGIC = b"\x1f\x8b\x08"
_HAS_NAME = b"\x08"
_UNIX = 3
_FIXED_HEADER_SIZE = 10


def rebuild(source, destination):
    """Rebuilds the four published files, bit for bit, from copies with another gzip header.

    Debian strips the name and the time out of gzip headers so that its packages build reproducibly,
    and TensorFlow Datasets then refuses the files by their checksums. The compressed stream is the
    published one, so writing the published header before it restores the published file. Files
    that already are the published ones pass unchanged.

    Args:
        source: string or path, the folder that holds the four `.gz` files.
        destination: string or path, an existing folder to write the published files to.

    Raises:
        FileNotFoundError: for a `source` that lacks one of the files.
        ValueError: for a file that is not what was published (its SHA-256 differs).

    Example:

    >>> from keras_robust.datasets import fashion_mnist
    >>> fashion_mnist.rebuild("/no/such/folder", "/tmp")
    Traceback (most recent call last):
    FileNotFoundError: Expected the 4 files of Fashion-MNIST. ...
    """
    source, destination = pathlib.Path(source), pathlib.Path(destination)
    missing = [name for name in _FILES if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected the {len(_FILES)} files of Fashion-MNIST. Received: source={str(source)!r}, "
            f"which lacks {', '.join(missing)}. On Debian: apt-get install dataset-fashion-mnist"
        )
    for name, (time, sha256) in _FILES.items():
        rebuilt = _with_published_header((source / name).read_bytes(), name, time)
        received = hashlib.sha256(rebuilt).hexdigest()
        if received != sha256:
            raise ValueError(
                f"Expected the published {name}, with SHA-256 {sha256}. Received: "
                f"{str(source / name)!r}, which gives {received}: it is damaged, or another file"
            )
        (destination / name).write_bytes(rebuilt)


def prepare(source=SOURCE, data_dir=None):
    """Prepares `tfds.load("fashion_mnist")` from local files, with every checksum enforced.

    Use it once where Fashion-MNIST cannot be downloaded. It takes about 10 seconds on two CPU
    cores and 40 MB of disk, and 80 MB more for the time of the call. A data set that is already
    prepared is left alone.

    Args:
        source: string, the folder of the four `.gz` files. Defaults to where Debian's package
            `dataset-fashion-mnist` puts them.
        data_dir: string, the folder of prepared TensorFlow data sets. Defaults to `None`: the
            default of TensorFlow Datasets.

    Returns:
        The `tfds.core.DatasetBuilder` of the prepared data set.

    Raises:
        FileNotFoundError: for a `source` that lacks one of the files.
        OSError: for a `data_dir` that cannot be written.
        ValueError: for a file that is not what was published.
    """
    # Not on top: it takes seconds to import, and nothing else here needs it.
    import tensorflow_datasets as tfds

    builder = tfds.builder("fashion_mnist", data_dir=data_dir)
    if builder.data_path.exists():
        return builder
    with tempfile.TemporaryDirectory() as published:
        rebuild(source, published)
        config = tfds.download.DownloadConfig(
            manual_dir=published, try_download_gcs=False, force_checksums_validation=True
        )
        try:
            # What is unpacked on the way goes with the temporary folder.
            builder.download_and_prepare(download_dir=published, download_config=config)
        except OSError as error:
            raise OSError(
                "Expected a folder that can be written to. "
                f"Received: data_dir={data_dir!r}, in which {builder.data_path} failed: {error}"
            ) from error
    return builder


def _with_published_header(data, name, time):
    """Replaces the gzip header of the bytes `data` by the published one."""
    body = data[_FIXED_HEADER_SIZE:]
    if data[3:4] == _HAS_NAME:
        body = body.partition(b"\0")[2]
    header = _MAGIC + _HAS_NAME + struct.pack("<LBB", time, 0, _UNIX)
    return header + name.removesuffix(".gz").encode() + b"\0" + body
