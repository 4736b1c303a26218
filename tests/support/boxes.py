"""Small networks for objectives on interval bounds, and the worst margins of a linear one."""

import keras
import numpy as np

import keras_robust as kr
from keras_robust.certification.interval import interval_margins
from tests.support import forward_passes
from tests.support import numpy_reference

_RNG = np.random.default_rng(14)
KERNEL = _RNG.normal(size=(numpy_reference.FEATURES, 3)).astype("float32")
BIAS = _RNG.normal(size=3).astype("float32")


def _compiled(*layers):
    model = keras.Sequential([keras.Input((numpy_reference.FEATURES,)), *layers])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def linear(classes=3):
    """A compiled linear classifier."""
    model = _compiled(keras.layers.Dense(classes))
    model.layers[0].set_weights([KERNEL[:, :classes], BIAS[:classes]])
    return model


def linear_logits(x):
    """The logits of the linear classifier in float64."""
    return x.astype("float64") @ KERNEL + BIAS


def linear_margins(low, high, y=forward_passes.Y):
    """The largest `z_j - z_y` of the linear classifier in a box, each at its own corner."""
    margins = np.zeros((len(low), 3))
    for row, (below, above, own) in enumerate(zip(low, high, y, strict=True)):
        for j in range(3):
            slope = KERNEL[:, j].astype("float64") - KERNEL[:, own]
            corner = np.where(slope > 0.0, above, below)
            margins[row, j] = corner @ slope + BIAS[j] - BIAS[own]
    return margins


def relu():
    """A compiled network with a hidden layer of ReLUs, the same each time."""
    model = _compiled(keras.layers.Dense(12, activation="relu"), keras.layers.Dense(3))
    rng = np.random.default_rng(15)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def bounds_of_a_fit(objective, jit_compile):
    """Trains a small convolutional network; returns its largest margins before and after."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(64, 6, 6, 1)).astype("float32")
    y = (x.mean(axis=(1, 2, 3)) > 0.5).astype("int32")
    layers = [keras.layers.Conv2D(3, 3, activation="relu"), keras.layers.BatchNormalization()]
    layers += [keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=jit_compile)
    robust = kr.AdvTrain(kr.Linf(0.02), objective=objective, warmup=0)
    found = []
    for epochs in (0, 12):
        model.fit(x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=[robust])
        labels = keras.ops.convert_to_tensor(y)
        margins = interval_margins(model, keras.ops.convert_to_tensor(x), 0.02, labels, (0.0, 1.0))
        found.append(float(np.mean(np.max(np.where(np.eye(2)[y], -np.inf, margins), axis=-1))))
    return found
