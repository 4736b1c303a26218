"""The one function that loads a data set by its name."""

from keras_robust.calls import with_argument_advice


@with_argument_advice
def load(name="digits", *, data_dir=None):
    """Loads a data set by its name.

    `"digits"` comes with scikit-learn and needs neither files nor network. Every other name is one
    of TensorFlow Datasets; it is prepared in `data_dir` on the first use, which may download it,
    and only read from then on. Its images must have one fixed shape and its examples one label.
    Everything is held in memory as float32: four bytes a value, so 0.2 GB for Fashion-MNIST and
    0.7 GB for CIFAR-10, and up to twice that while it is read.

    Args:
        name: string, `"digits"`, or `"name"`, `"name/config"` or `"name:version"` of TensorFlow
            Datasets. Defaults to `"digits"`.
        data_dir: string, the folder of prepared TensorFlow data sets. Defaults to `None`: the
            default of TensorFlow Datasets. Not used for `"digits"`.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: for an unknown name, and for a data set that is not one of uint8 images of one
            shape, each with one label, with the splits `train` and `test`.
        OSError: for a data set that is not prepared and cannot be prepared now; the message says
            how to prepare it.

    Example:

    >>> from keras_robust import datasets
    >>> x, y = datasets.load("digits").train
    >>> x.shape, y.shape
    ((1297, 8, 8, 1), (1297,))
    """
    # Not on top: TensorFlow Datasets takes seconds to import, and the digits do not need it.
    if name == "digits":
        from keras_robust.datasets import digits

        return digits.load()
    from keras_robust.datasets import tfds

    return tfds.load(name, data_dir=data_dir)
