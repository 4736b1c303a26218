"""Snapshots of a training, to which it can return."""

import keras
import numpy as np

from keras_robust import backend
from keras_robust.backend.keras_internals import is_clock
from keras_robust.backend.keras_internals import moving_averages


def _copied(variable):
    # Copy: on JAX, the array is a view of memory that the next step may overwrite.
    return np.array(keras.ops.convert_to_numpy(variable))


class Snapshot:
    """The weights of a model and the state of its optimizer, in host memory.

    `restore` puts back what was trained: weights, BatchNorm statistics, momenta, and the averages
    of `use_ema=True`, which would otherwise replace the weights at the end of `fit`. The step
    counter and the learning rate are not restored, so that a schedule reaches its end, and random
    numbers that depend on the step are not repeated.

    Args:
        model: compiled `keras.Model` with a built optimizer.
    """

    def __init__(self, model):
        states = [v for v in model.optimizer.variables if not is_clock(v)]
        self._values = [(v, _copied(v)) for v in model.weights + states]

    def restore(self):
        """Assigns the stored values to the variables."""
        for variable, value in self._values:
            variable.assign(value)


def start_optimizer(model):
    """Builds the optimizer, and initializes its averages if it has taken no step yet.

    Keras does both in the first step. Before that the averages are zeros, which must not be
    restored as weights.
    """
    if not model.optimizer.built:
        with backend.variable_scope(model):
            model.optimizer.build(model.trainable_variables)
    # In mixed precision a LossScaleOptimizer wraps the optimizer that holds the averages.
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    for optimizer in getattr(inner, "optimizers", [inner]):
        if not int(_copied(optimizer.iterations)):
            for variable, average in moving_averages(optimizer):
                average.assign(_copied(variable))
