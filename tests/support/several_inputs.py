"""Models with several inputs, in front of what is known of models with one."""

import keras
import numpy as np

from tests.support import linear_fit

SIZE = 6
SHAPES = {"image": (2, 2, 2), "meta": (3,), "age": (1,)}
UNTOUCHED = {"token": (4,), "city": ()}


def inputs(low=0.0, high=1.0):
    """A dict of float inputs in `[low, high]`, and of tokens and categories between them."""
    rng = np.random.default_rng(2)
    x = {
        name: (low + (high - low) * rng.beta(0.6, 0.6, size=(SIZE, *shape))).astype("float32")
        for name, shape in SHAPES.items()
    }
    tokens = rng.integers(0, 9, size=(SIZE, 4))
    cities = np.array([f"city {number}" for number in range(SIZE)])
    return {
        "token": tokens,
        "image": x["image"],
        "city": cities,
        "meta": x["meta"],
        "age": x["age"],
    }


def directions():
    """One row of weights for every example of every float input, none of them 0."""
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=(SIZE, np.prod(shape))) for name, shape in SHAPES.items()}


def joined(x):
    """The float inputs flattened and side by side, `(SIZE, 12)`."""
    return np.concatenate([np.asarray(x[name]).reshape(SIZE, -1) for name in SHAPES], axis=-1)


def parted(x):
    """The data of `linear_fit` as a dict of two inputs, and of the numbers of the examples."""
    return {"a": x[:, :1], "number": np.arange(len(x)), "b": x[:, 1:].reshape(-1, 3, 1)}


def parted_model(**compile_arguments):
    """The model of `linear_fit` on the dict that `parted` returns; it ignores the numbers."""
    layers = {
        "a": keras.Input((1,), name="a"),
        "number": keras.Input((), dtype="int32", name="number"),
        "b": keras.Input((3, 1), name="b"),
    }
    flat = keras.layers.Flatten()(layers["b"])
    features = keras.layers.Concatenate()([layers["a"], flat])
    head = keras.layers.Dense(linear_fit.NUM_CLASSES, use_bias=False)
    model = keras.Model(layers, head(features))
    head.set_weights([linear_fit.initial_weights()])
    model.compile(
        keras.optimizers.SGD(linear_fit.LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    return model
