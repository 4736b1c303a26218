"""The networks of `benchmarks.auto_attack_peers`: small, and different in kind.

Each is a chain of layers, so that `get_weights` has the order in which `torch_networks` reads them.
A kernel of 4 with a stride of 2 is padded alike on both sides here and in PyTorch; one of 3 is not.
"""

import keras
from keras import layers


def convolutional(activation="relu", classes=10, head=None, scale=1.0):
    """Returns two convolutions and two dense layers."""
    inputs = keras.Input((28, 28, 1))
    x = inputs if scale == 1.0 else layers.Rescaling(1.0 / scale)(inputs)
    x = layers.Conv2D(8, 4, 2, "same", activation=activation)(x)
    x = layers.Conv2D(16, 4, 2, "same", activation=activation)(x)
    x = layers.Dense(32, activation)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(classes, head)(x))


def residual():
    """Returns two residual blocks with BatchNorm, each behind a convolution of stride 2."""
    inputs = x = keras.Input((28, 28, 1))
    for filters in (8, 16):
        x = layers.Activation("relu")(_normalized(x, filters, 4, 2))
        inner = layers.Activation("relu")(_normalized(x, filters, 3, 1))
        inner = _normalized(inner, filters, 3, 1)
        x = layers.Activation("relu")(layers.Add()([x, inner]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def _normalized(x, filters, size, stride):
    x = layers.Conv2D(filters, size, stride, "same")(x)
    # A training of few steps must move the statistics all the way.
    return layers.BatchNormalization(momentum=0.9)(x)


def attention(width=32):
    """Returns a block of a vision transformer on 16 patches."""
    inputs = keras.Input((28, 28, 1))
    x = layers.Reshape((16, width))(layers.Conv2D(width, 7, 7)(inputs))
    # The bias of each patch is its place.
    x = layers.EinsumDense("bpc,cd->bpd", (16, width), bias_axes="pd")(x)
    normal = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, width // 2)(normal, normal)])
    inner = layers.Dense(2 * width, "relu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(width)(inner)])
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))
