"""Models for the processes of a distributed evaluation."""

import os
import pathlib

import keras

import keras_robust as kr
from tests.support import killable


def load_killable(folder):
    """Returns a model that kills the first process that loads it, once, in an attack."""
    kr.evaluation.checkpoint.SECONDS = 0.0
    try:
        pathlib.Path(folder, "killed").touch(exist_ok=False)
    except FileExistsError:
        return _Counting(folder)
    return _Counting(folder, passes=12, dies=True)


class _Counting(killable.Killable):
    """The model, which notes each of its passes."""

    def __init__(self, folder, **arguments):
        super().__init__(**arguments)
        self.path = pathlib.Path(folder, f"passes_{os.getpid()}")

    def _compute(self, x):
        with open(self.path, "a") as file:
            file.write(".")
        return super()._compute(x)


def network():
    """A small network with random weights."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers, keras.layers.Dense(4)])
