"""Networks of random layers, of the kinds that certificates know and of some that they do not."""

import keras
import numpy as np
from keras import layers

import keras_robust as kr

IMAGE = (7, 6, 2)


class Louder(keras.Sequential):
    """A model that does more than its layers."""

    def call(self, x, training=None, mask=None):
        return super().call(10.0 * x, training=training)


def _pad(rng):
    return str(rng.choice(["same", "valid"]))


def _few(rng, high=3):
    return int(rng.integers(1, high + 1))


def _convolution(rng):
    activation = str(rng.choice(["relu", "tanh", "elu", "softplus", "leaky_relu", "sigmoid"]))
    size = (_few(rng, 4), _few(rng))
    return layers.Conv2D(4, size, strides=_few(rng, 2), padding=_pad(rng), activation=activation)


def _nested(rng, x):
    inner = [layers.Conv2D(4, 2, padding="same"), layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential([keras.Input(x.shape[1:]), *inner])(x)


# Each makes a layer, or calls some, from a random generator and a tensor `(n, h, w, c)`.
_BLOCKS = {
    "convolution": lambda rng, x: _convolution(rng)(x),
    "dilated": lambda rng, x: layers.Conv2D(3, 2, dilation_rate=2, padding=_pad(rng))(x),
    "batch norm": lambda rng, x: layers.BatchNormalization()(x),
    "max": lambda rng, x: layers.MaxPooling2D(
        (_few(rng), 2), strides=_few(rng, 2), padding=_pad(rng)
    )(x),
    "mean": lambda rng, x: layers.AveragePooling2D((_few(rng), 2), _few(rng, 2), _pad(rng))(x),
    "concatenate": lambda rng, x: layers.Concatenate()([x, layers.Rescaling(-1.5, 0.3)(x)]),
    "add": lambda rng, x: layers.Add()([x, layers.ReLU()(x)]),
    "broadcast": lambda rng, x: layers.Add()([x, layers.Conv2D(1, 1)(x)]),
    "pad": lambda rng, x: layers.ZeroPadding2D(1)(layers.Permute((2, 1, 3))(x)),
    "orthogonal": lambda rng, x: kr.layers.OrthogonalConv2D(4, _few(rng), padding=_pad(rng))(x),
    "sort": lambda rng, x: kr.layers.GroupSort()(layers.Conv2D(4, 1)(x)),
    "nested": _nested,
    "pixels": lambda rng, x: layers.Dense(3, "tanh")(layers.GaussianNoise(0.5)(x)),
    "normalization": lambda rng, x: layers.Normalization(mean=0.3, variance=0.2)(x),
    "steep": lambda rng, x: layers.LeakyReLU(1.5)(layers.ELU(2.0)(x)),
    "wrapped": lambda rng, x: layers.SpectralNormalization(layers.Conv2D(3, 2))(x),
    "subtract": lambda rng, x: layers.Subtract()([x, layers.Activation("sigmoid")(x)]),
    "extremes": lambda rng, x: layers.Maximum()([x, layers.Rescaling(-1.0)(x)]),
    "softmax": lambda rng, x: layers.Softmax()(x),
    "bounded": lambda rng, x: layers.ReLU(0.7, negative_slope=0.1, threshold=0.1)(x),
    "groups": lambda rng, x: layers.Conv2D(x.shape[-1], 2, groups=x.shape[-1])(x),
    "louder": lambda rng, x: Louder([keras.Input(x.shape[1:]), layers.ReLU()])(x),
    "half": lambda rng, x: layers.Rescaling(1.0, dtype="mixed_bfloat16")(x),
    "unknown": lambda rng, x: layers.LayerNormalization()(x),
    "guard": lambda rng, x: kr.layers.InputGuard((-1.0, 1.0), outside="clip")(x),
}
# Number of outputs, and the layers at the end.
HEADS = {
    "linear": (3, lambda: [layers.Dense(3)]),
    "softmax": (3, lambda: [layers.Dense(3, "softmax")]),
    "softmax layer": (3, lambda: [layers.Dense(3), layers.Softmax()]),
    "softmax, identity": (3, lambda: [layers.Dense(3, "softmax"), layers.Identity()]),
    "softmax, dropout": (3, lambda: [layers.Dense(3, "softmax"), layers.Dropout(0.5)]),
    "softmax, flatten": (3, lambda: [layers.Dense(3, "softmax"), layers.Flatten()]),
    "softmax twice": (3, lambda: [layers.Dense(3, "softmax"), layers.Softmax()]),
    "relu": (3, lambda: [layers.Dense(3, "relu")]),
    "one sigmoid": (1, lambda: [layers.Dense(1, "sigmoid")]),
    "one sigmoid, reshape": (1, lambda: [layers.Dense(1, "sigmoid"), layers.Reshape((1,))]),
    "one logit": (1, lambda: [layers.Dense(1)]),
    "sigmoids": (3, lambda: [layers.Dense(3, "sigmoid")]),
    "spectral": (3, lambda: [kr.layers.SpectralDense(3)]),
}


def random_network(rng, head, depth, from_logits):
    """Returns a Functional model, compiled if `from_logits` is no `None`, and its block names."""
    keras.utils.set_random_seed(int(rng.integers(2**31)))
    inputs, names = keras.Input(IMAGE), []
    x = inputs
    while len(names) < depth and min(x.shape[1:3]) >= 4:
        names.append(str(rng.choice(list(_BLOCKS))))
        x = _BLOCKS[names[-1]](rng, x)
    x = (layers.Flatten() if rng.uniform() < 0.7 else layers.GlobalAveragePooling2D())(x)
    units, make = HEADS[head]
    for layer in make():
        x = layer(x)
    model = keras.Model(inputs, x)
    for weight in (weight for weight in model.weights if "seed" not in weight.path):
        value = weight.numpy() + rng.normal(size=weight.shape, scale=0.3)
        weight.assign(np.abs(value) + 0.1 if "variance" in weight.path else value)
    if from_logits is not None:
        kinds = keras.losses.BinaryCrossentropy, keras.losses.SparseCategoricalCrossentropy
        model.compile("sgd", kinds[units > 1](from_logits=from_logits))
    return model, names
