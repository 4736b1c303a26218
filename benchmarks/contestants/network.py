"""The network of all contestants in Keras: two convolutions and a dense layer of 1024."""

import keras


def build(size=28, policy=None, seed=0):
    """Returns it without compiling it."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Conv2D(32, 5, padding="same", activation="relu", dtype=policy),
        keras.layers.MaxPooling2D(dtype=policy),
        keras.layers.Conv2D(64, 5, padding="same", activation="relu", dtype=policy),
        keras.layers.MaxPooling2D(dtype=policy),
        keras.layers.Flatten(dtype=policy),
        keras.layers.Dense(1024, activation="relu", dtype=policy),
        keras.layers.Dense(10, dtype=policy),
    ]
    return keras.Sequential([keras.Input((size, size, 1)), *layers])
