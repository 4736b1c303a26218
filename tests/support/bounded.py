"""Networks for which bounds are computed, with random weights of all kinds."""

import keras
import numpy as np
from keras import layers

IMAGE = (6, 5, 2)


def randomise(model):
    """Gives a model other weights than those of its initialisers, and returns it."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "seed" in weight.path:
            continue
        value = rng.normal(size=weight.shape)
        positive = "variance" in weight.path
        weight.assign(np.abs(value) + 0.3 if positive else value)
    return model


def sequential(*parts, shape=IMAGE):
    """A Sequential model with random weights."""
    keras.utils.set_random_seed(0)
    return randomise(keras.Sequential([keras.Input(shape), *parts]))


def network(*head):
    """A convolution, BatchNorm, a pool and a layer with ReLU, in front of the layers given."""
    return sequential(
        layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(2, padding="same"),
        layers.Flatten(),
        layers.Dense(12, activation="relu"),
        *head,
    )
