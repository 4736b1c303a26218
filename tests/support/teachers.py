"""A teacher for the reference network of `forward_passes`, and its logits in float64 NumPy."""

import keras
import numpy as np

from tests.support import forward_passes
from tests.support import numpy_reference

_RNG = np.random.default_rng(11)
KERNEL, BIAS = 3.0 * _RNG.normal(size=(numpy_reference.FEATURES, 3)), _RNG.normal(size=3)


def model():
    """A linear teacher."""
    teacher = keras.Sequential([keras.Input((numpy_reference.FEATURES,)), keras.layers.Dense(3)])
    teacher.set_weights([KERNEL, BIAS])
    return teacher


def logits(x):
    """The logits of the teacher, `(n, 3)`."""
    return x.astype("float64") @ KERNEL + BIAS


def moving_mean(objective):
    """What the statistics of BatchNorm on the inputs are after one loss with momentum 0.9."""
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    student = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    student.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    objective.loss(*forward_passes.forward_passes(student))
    return np.asarray(norm.moving_mean)
