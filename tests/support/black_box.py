"""Models without gradients that count, and the distance of the nearest mistake of a linear one."""

import numpy as np
import tensorflow as tf
from scipy import optimize

from keras_robust import backend
from tests.support import backends
from tests.support import linear_model


class BlackBox:
    """A NumPy function as a model: no gradient, and every example that it sees is counted.

    Args:
        function: callable from an array `(n, ...)` to outputs `(n, num_classes)`.
        num_classes: int.
    """

    def __init__(self, function, num_classes=2):
        self.function = function
        self.num_classes = num_classes
        self.calls = []

    def __call__(self, x):
        if backends.IS_JAX:
            return backend.host_function(self._count, x, self.num_classes)
        outputs = tf.numpy_function(self._count, [x], "float32")
        outputs.set_shape((None, self.num_classes))
        return outputs

    @property
    def asked(self):
        """How many examples it saw."""
        return sum(self.calls)

    def _count(self, x):
        self.calls.append(len(x))
        return np.asarray(self.function(x), "float32")


def linear(x):
    """The logits of `linear_model` in NumPy."""
    return x.reshape(len(x), 12) @ linear_model.WEIGHTS + linear_model.BIAS


def distances(x, y, norm, bounds=(0.0, 1.0)):
    """How far away the nearest mistake of `linear_model` is, for each example, in float64."""

    def gap(radius, x, y):
        return linear_model.margin(linear_model.best(x, y, norm, radius, bounds), y)[0]

    rows = ((x[i : i + 1], y[i : i + 1]) for i in range(len(x)))
    return np.array([optimize.brentq(gap, 1e-4, 5.0, args=row) for row in rows])
