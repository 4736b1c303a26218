"""Function that loads a data set by its name."""

from keras_robust.calls import with_argument_advice


@with_argument_advice
def load(name="digits", *, data_dir=None):
    """Loads a data set by its name.

    `"digits"` comes with scikit-learn and needs neither files nor a network. Every other name is a
    name of TensorFlow Datasets. The first use prepares the data set in `data_dir`, which may
    download it; later uses only read it. Its images must have one fixed shape, and its examples one
    label each. Everything is held in memory as float32, four bytes per value: 0.2 GB for
    Fashion-MNIST and 0.7 GB for CIFAR-10, and up to twice as much during loading.

    Args:
        name: string, `"digits"`, or `"name"`, `"name/config"` or `"name:version"` of TensorFlow
            Datasets. Defaults to `"digits"`.
        data_dir: string, the folder of prepared TensorFlow data sets. Not used for `"digits"`.
            Defaults to `None`, the default folder of TensorFlow Datasets.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: for an unknown name, and unless the data set has the splits `train` and `test`
            and consists of uint8 images of one shape, each with one label.
        OSError: for a data set that is not prepared and cannot be prepared now. The message says
            how to prepare it.

    Example:

    >>> from keras_robust import datasets
    >>> x, y = datasets.load("digits").train
    >>> x.shape, y.shape
    ((1297, 8, 8, 1), (1297,))
    """
    # Imported here, because TensorFlow Datasets takes seconds to import and digits do not need it.
    if name == "digits":
        from keras_robust.datasets import digits

        return digits.load()
    from keras_robust.datasets import tfds

    return tfds.load(name, data_dir=data_dir)
