"""Built-in network, and networks from files."""

import pathlib

import keras
import tensorflow as tf

from keras_robust import backend
from keras_robust import models
from keras_robust.export.archive import from_tf_function

SMALL_CNN = "small_cnn"


def small_cnn(input_shape, num_classes, bounds=(0.0, 1.0)):
    """Returns an uncompiled small network that is common in the literature on robust training.

    It has two convolutions, with 16 and 32 filters of 4 x 4 and stride 2, and a dense layer of 100
    units (Croce, Andriushchenko and Hein, 2019). On images smaller than 16 x 16 the first stride is
    1.

    Args:
        input_shape: tuple `(height, width, channels)`.
        num_classes: int.
        bounds: pair of floats, the least and the greatest value of a pixel. The first layer of the
            network scales pixels from these bounds to [0, 1].
    """
    low, high = bounds
    is_unit = (low, high) == (0.0, 1.0)
    scale = keras.layers.Rescaling(1.0 / (high - low), offset=-low / (high - low))
    first_stride = 2 if min(input_shape[:2]) >= 16 else 1
    return keras.Sequential(
        [
            keras.Input(input_shape, name="images"),
            *([] if is_unit else [scale]),
            keras.layers.Conv2D(16, 4, strides=first_stride, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 4, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(num_classes),
        ],
        name=SMALL_CNN,
    )


def build(name, dataset, learning_rate, bounds=(0.0, 1.0)):
    """Returns a compiled classifier for a data set.

    Args:
        name: `"small_cnn"`, or the path of a `.keras` file. A compiled model in the file keeps its
            loss and gets a new Adam optimizer.
        dataset: `keras_robust.datasets.Dataset`.
        learning_rate: float, of Adam.
        bounds: pair of floats, the least and the greatest value of a pixel.

    Raises:
        ValueError: for a file that cannot be read, or a model that does not fit the data.
    """
    if name == SMALL_CNN:
        model = small_cnn(dataset.input_shape, dataset.num_classes, bounds)
    else:
        model = load_keras(name, expected=f"{SMALL_CNN!r} or the path of a .keras file")
    check_fit(model, dataset)
    loss = model.loss
    if loss is None:
        outputs = model(keras.ops.zeros((1, *dataset.input_shape)))
        # An uncompiled model may end in a softmax or return logits.
        from_logits = backend.keras_logits(outputs) is None
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    if models.Classifier(model).loss_name == "categorical_crossentropy":
        raise ValueError(
            "The labels of the data set are class indices: compile the model with "
            "SparseCategoricalCrossentropy. "
            f"Received: --model={name}, compiled with a loss of one-hot labels"
        )
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    return model


def load_keras(path, expected="the path of a .keras file", flag="model"):
    """Returns the model in a `.keras` file. Raises a ValueError of one line if it is unreadable."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"Expected {expected}. Received: --{flag}={path}")
    try:
        return keras.models.load_model(path)
    except Exception as error:
        # Keras explains itself over many lines, but a program prints one.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"The file {path} is not a readable Keras model: {reason}. Received: --{flag}={path}"
        ) from error


def load_for_attack(path):
    """Returns the model in a `.keras` file, or a callable for a SavedModel of this package."""
    if not pathlib.Path(path).is_dir():
        return load_keras(path, expected="a .keras file or the folder of a SavedModel")
    try:
        loaded = tf.saved_model.load(path)
    except Exception as error:
        raise ValueError(
            f"The folder {path} is not a readable SavedModel. Received: --model={path}"
        ) from error
    if "logits" not in loaded.signatures:
        raise ValueError(
            "Expected a SavedModel with the signature 'logits', which keras-robust-export writes. "
            f"Received: signatures {sorted(loaded.signatures)}"
        )
    logits = loaded.signatures["logits"]
    name = next(iter(logits.structured_input_signature[1]))

    # The signature does not keep the variables of `loaded` alive, but a closure over `loaded` does.
    served = from_tf_function(lambda x: loaded.signatures["logits"](**{name: x})["logits"])
    served.input_shape = tuple(logits.structured_input_signature[1][name].shape)
    served.output_shape = tuple(logits.output_shapes["logits"])
    return served


def check_fit(model, dataset):
    """Raises `ValueError` if the shapes of a model and a data set differ."""
    expected = (None, *dataset.input_shape), (None, dataset.num_classes)
    if (model.input_shape, model.output_shape) != expected:
        raise ValueError(
            f"The data set {dataset.name} needs a model from {expected[0]} to {expected[1]}. "
            f"Received: a model from {model.input_shape} to {model.output_shape}"
        )
