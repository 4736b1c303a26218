"""Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747) from the files of a Debian package."""

import hashlib
import pathlib
import struct
import tempfile

SOURCE = "/usr/share/datasets/fashion-mnist"

# Published file -> (time in its gzip header, SHA-256 that TensorFlow Datasets expects).
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

    Debian removes the name and the time from gzip headers so that its packages build reproducibly.
    TensorFlow Datasets then refuses the files, because their checksums differ. The compressed
    stream is unchanged, so the published header in front of it restores the published file. Files
    that already have the published header stay the same.

    Args:
        source: string or path, the folder that holds the four `.gz` files.
        destination: string or path, an existing folder for the published files.

    Raises:
        FileNotFoundError: if `source` lacks one of the files.
        ValueError: if the SHA-256 of a file differs from the published one.

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
    """Prepares `tfds.load("fashion_mnist")` from local files and checks every checksum.

    Call it once on a machine that cannot download Fashion-MNIST. The call takes about 10 seconds on
    two CPU cores and 40 MB of disk, and 80 MB more while it runs. A data set that is already
    prepared does not change.

    Args:
        source: string, the folder of the four `.gz` files. Defaults to the folder of the Debian
            package `dataset-fashion-mnist`.
        data_dir: string, the folder of prepared TensorFlow data sets. Defaults to `None`, the
            default folder of TensorFlow Datasets.

    Returns:
        The `tfds.core.DatasetBuilder` of the prepared data set.

    Raises:
        FileNotFoundError: if `source` lacks one of the files.
        OSError: if `data_dir` cannot be written.
        ValueError: if the SHA-256 of a file differs from the published one.
    """
    # Imported here, because it takes seconds to import and nothing else here needs it.
    import tensorflow_datasets as tfds

    builder = tfds.builder("fashion_mnist", data_dir=data_dir)
    if builder.data_path.exists():
        return builder
    with tempfile.TemporaryDirectory() as published:
        rebuild(source, published)
        # Read only the rebuilt files, and refuse a file with another checksum.
        config = tfds.download.DownloadConfig(
            manual_dir=published, try_download_gcs=False, force_checksums_validation=True
        )
        try:
            # Unpacked files are deleted together with the temporary folder.
            builder.download_and_prepare(download_dir=published, download_config=config)
        except OSError as error:
            raise OSError(
                "Expected a folder that can be written to. "
                f"Received: data_dir={data_dir!r}, in which {builder.data_path} failed: {error}"
            ) from error
    return builder


def _with_published_header(data, name, time):
    """Returns the gzip file `data` with the published header."""
    body = data[_FIXED_HEADER_SIZE:]
    # The name follows the header, and ends with a zero byte.
    if data[3:4] == _HAS_NAME:
        body = body.partition(b"\0")[2]
    header = _MAGIC + _HAS_NAME + struct.pack("<LBB", time, 0, _UNIX)
    return header + name.removesuffix(".gz").encode() + b"\0" + body
