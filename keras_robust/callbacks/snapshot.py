"""What it takes to go back to an earlier point of a training."""

import keras
import numpy as np

from keras_robust import backend
from keras_robust.backend.keras_internals import is_clock
from keras_robust.backend.keras_internals import moving_averages


def _copied(variable):
    # Of JAX one gets a view into the memory of the variable, which the next step may take.
    return np.array(keras.ops.convert_to_numpy(variable))


class Snapshot:
    """The weights of a model and the state of its optimizer, kept in host memory.

    `restore` puts back what the training has learned: weights, BatchNorm statistics, momenta and
    the averages of `use_ema=True`, which would otherwise overwrite the weights at the end of `fit`.
    The step counter and the learning rate go on, so that a schedule reaches its end, and what
    derives from the step, such as the random starts of an attack, does not come again.

    Args:
        model: compiled `keras.Model` with a built optimizer.
    """

    def __init__(self, model):
        states = [v for v in model.optimizer.variables if not is_clock(v)]
        self._values = [(v, _copied(v)) for v in model.weights + states]

    def restore(self):
        """Gives every variable the value that it had."""
        for variable, value in self._values:
            variable.assign(value)


def start_optimizer(model):
    """Builds the optimizer, and starts its averages if it has taken no step yet.

    Keras does both with the first step; until then the averages are zeros, which are no weights.
    """
    if not model.optimizer.built:
        with backend.variable_scope(model):
            model.optimizer.build(model.trainable_variables)
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    for optimizer in getattr(inner, "optimizers", [inner]):
        if not int(_copied(optimizer.iterations)):
            for variable, average in moving_averages(optimizer):
                average.assign(_copied(variable))
