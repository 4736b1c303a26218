"""Small models whose behaviour a test can see through."""

import keras
import numpy as np

IMAGE = (3, 3, 2)


def convolution():
    """A convolution with all that must stay still during an attack: BatchNorm and Dropout."""
    keras.utils.set_random_seed(7)
    normalization = keras.layers.BatchNormalization()
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            keras.layers.Conv2D(6, 2, activation="tanh"),
            normalization,
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(7)
    normalization.set_weights([rng.uniform(0.5, 1.5, 6) for _ in range(4)])
    return model


def images(model, count=9):
    """Images in (0, 1) with the classes that `model` gives, except the last two, which differ."""
    x = np.random.default_rng(6).uniform(size=(count, *IMAGE)).astype("float32")
    y = np.argmax(model.predict(x, verbose=0), axis=-1)
    y[-2:] = (y[-2:] + 1) % 3
    return x, y


class Recorder(keras.layers.Layer):
    """A linear layer that writes down each `training` it is called with: once a trace."""

    def __init__(self, weights):
        super().__init__()
        self.matrix = np.asarray(weights, "float32")
        self.seen = []

    def call(self, x, training=None):
        self.seen.append(training)
        return keras.ops.matmul(x, self.matrix)


class Alternating:
    """Logits `(1, x @ first)` on even calls and `(1, x @ second)` on odd ones, as if random."""

    def __init__(self, first, second):
        self.vectors = [np.asarray(first, "float32"), np.asarray(second, "float32")]
        self.calls = 0

    def __call__(self, x):
        vector = self.vectors[self.calls % 2]
        self.calls += 1
        return keras.ops.stack([keras.ops.ones_like(x[:, 0]), keras.ops.matmul(x, vector)], axis=-1)


def simple(**input_arguments):
    """A linear model of four features and three classes."""
    return keras.Sequential([keras.Input((4,), **input_arguments), keras.layers.Dense(3)])
