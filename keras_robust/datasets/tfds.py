"""Image classification data sets of TensorFlow Datasets as NumPy arrays."""

import socket
import urllib.parse
import urllib.request

import numpy as np
import tensorflow_datasets as tfds

from keras_robust.datasets.dataset import Dataset

_MAX_VALUE = 255.0
_MAX_NUM_VALIDATION = 5000


def load(name, *, data_dir=None):
    """Loads a TensorFlow data set, and first prepares it in `data_dir` if necessary.

    The split `test` is the test set. The validation set is the last tenth of the split `train`, but
    at most 5000 examples, and the training set is the rest. TensorFlow Datasets shuffles the
    examples when it writes them, and reads them in the order in which they were written.

    Args:
        name: string, `"name"`, `"name/config"` or `"name:version"`.
        data_dir: string, the folder of prepared data sets. Defaults to `None`, the default folder
            of TensorFlow Datasets.

    Returns:
        A `Dataset`, whose values are the original ones (0 to 255) divided by 255.

    Raises:
        ValueError: for an unknown name, and unless the data set has the splits `train` and `test`
            and consists of uint8 images of one shape, each with one label.
        OSError: for a data set that is not prepared and cannot be prepared now.
    """
    builder = _builder(name, data_dir)
    image_shape, label_names = _image_shape_and_label_names(builder, name)
    _prepare(builder, name, data_dir)
    train, validation, test = _read(builder, name)
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=test,
        num_classes=len(label_names),
        input_shape=image_shape,
        label_names=label_names,
    )


def _builder(name, data_dir):
    try:
        return tfds.builder(name, data_dir=data_dir)
    # These errors mean an unknown or malformed name, an unknown version, and a namespace that needs
    # another package.
    except (ValueError, AssertionError, ImportError) as error:
        raise ValueError(
            "Expected 'digits' or a data set of TensorFlow Datasets, 'name[/config][:version]'. "
            f"Received: name={name!r} ({_first_line(error)})"
        ) from error


def _prepare(builder, name, data_dir):
    if builder.data_path.exists():
        return
    try:
        _check_network(builder)
        builder.download_and_prepare()
    # A failed download raises one of a dozen types from several libraries and data set scripts.
    except Exception as error:
        raise OSError(
            f"Data set {name!r} is not prepared and cannot be prepared now ({_first_line(error)}). "
            f"Received: data_dir={data_dir!r}. {_how_to_prepare(name, data_dir)}"
        ) from error


def _check_network(builder):
    """Raises ConnectionError if no download host has an address.

    Without this check, a machine without a network retries for minutes before the error.
    """
    hosts = sorted({urllib.parse.urlsplit(url).hostname for url in builder.url_infos or ()})
    # A proxy resolves addresses itself, so this machine may not know them.
    behind_proxy = bool(urllib.request.getproxies())
    if hosts and not behind_proxy and not any(_has_address(host) for host in hosts):
        raise ConnectionError(f"no network: found no address of {hosts[0]}")


def _has_address(host):
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _how_to_prepare(name, data_dir):
    if name == "fashion_mnist":
        location = "" if data_dir is None else f" --data_dir={data_dir}"
        return f"Prepare it from local files: keras-robust-prepare-idx{location}"
    location = "" if data_dir is None else f', data_dir="{data_dir}"'
    return f'Prepare it where there is a network: tfds.load("{name}"{location})'


def _image_shape_and_label_names(builder, name):
    """Returns the shape `(height, width, channels)` of an image and the names of the classes."""
    keys = builder.info.supervised_keys or ()
    features = [builder.info.features[key] for key in keys if isinstance(key, str)]
    types = [type(feature).__name__ for feature in features]
    if types != ["Image", "ClassLabel"]:
        raise ValueError(
            "Expected an image classification data set whose supervised keys are an Image and a "
            f"ClassLabel. Received: name={name!r} with {types or 'no supervised keys'}"
        )
    image, label = features
    if None in image.shape or image.np_dtype != np.uint8:
        raise ValueError(
            "Expected uint8 images of one fixed shape. Received: "
            f"name={name!r} with shape {image.shape} of {np.dtype(image.np_dtype)}"
        )
    return tuple(image.shape), tuple(label.names)


def _read(builder, name):
    """Returns the training, validation and test examples, each as a pair of arrays."""
    splits = builder.info.splits
    if "train" not in splits or "test" not in splits:
        raise ValueError(
            f"Expected the splits 'train' and 'test'. Received: name={name!r} with {list(splits)}"
        )
    num_examples = splits["train"].num_examples
    num_train = num_examples - min(-(-num_examples // 10), _MAX_NUM_VALIDATION)
    parts = f"train[:{num_train}]", f"train[{num_train}:]", "test"
    return [_to_arrays(builder, part) for part in parts]


def _to_arrays(builder, split):
    x, y = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, as_supervised=True))
    # Divide by a float32: a float64 quotient would take twice the memory.
    return x / np.float32(_MAX_VALUE), y.astype("int64")


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
