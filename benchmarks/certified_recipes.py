"""The networks of `benchmarks.certified_training`, and how each is trained."""

import dataclasses
import typing

import keras

import keras_robust as kr

BATCH_SIZE = 128
LEARNING_RATE = 1e-3
RAMP = 0.3  # The share of the steps in which epsilon grows and the penalty fades.
DECAYS = (0.7, 0.85)  # The shares of the steps after which the learning rate is a fifth.
CLIP = 10.0
L1 = 1e-6
PENALTY = 0.5


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network, its data and its objective.

    Args:
        dataset: name of the data set.
        epsilon: float, the radius of training and of the certificate, in Linf.
        network: function `(input_shape, num_classes)` that returns a model.
        objective: function of the schedule of the penalty that returns an `Objective`.
        epochs: int.
    """

    dataset: str
    epsilon: float
    network: typing.Callable
    objective: typing.Callable
    epochs: int


def recipes():
    """Returns the recipes by name."""
    objectives = {
        "ibp": lambda penalty: kr.objectives.IBP(kappa=0.0, regularization=penalty),
        "mtl_ibp": lambda penalty: kr.objectives.MTLIBP(alpha=0.5, regularization=penalty),
        "sabr": lambda penalty: kr.objectives.SABR(0.8, regularization=penalty),
    }
    data = {"fashion_mnist": (0.1,), "mnist": (0.3, 0.1)}
    networks = {"small": (small, 40), "wide": (wide, 40), "residual": (residual, 40)}
    return {
        f"{dataset}_{epsilon}_{kind}_{size}": Recipe(dataset, epsilon, network, objective, epochs)
        for size, (network, epochs) in networks.items()
        for dataset, radii in data.items()
        for epsilon in radii
        for kind, objective in objectives.items()
    }


def small(input_shape, num_classes):
    """Returns the network of `apps.models.small_cnn` with weights for training on boxes."""
    return _plain(input_shape, num_classes, (16, 4), (32, 4), 100)


def wide(input_shape, num_classes):
    """Returns a network of the same kind with five times as many weights."""
    return _plain(input_shape, num_classes, (32, 5), (64, 4), 256)


def _plain(input_shape, num_classes, first, second, units):
    layers = [
        keras.layers.Conv2D(*first, strides=2, activation="relu", **_affine()),
        keras.layers.Conv2D(*second, strides=2, activation="relu", **_affine()),
        keras.layers.Flatten(),
        keras.layers.Dense(units, activation="relu", **_affine(None)),
        keras.layers.Dense(num_classes, **_affine(None)),
    ]
    return keras.Sequential([keras.Input(input_shape), *layers])


def residual(input_shape, num_classes):
    """Returns a network of two residual blocks, with BatchNormalization after each convolution."""
    inputs = keras.Input(input_shape)
    x = _normalized(inputs, 16, 5, 2)
    for filters, strides in ((16, 1), (32, 2)):
        shortcut = x if strides == 1 else _normalized(x, filters, 1, strides)
        inner = keras.layers.ReLU()(_normalized(x, filters, 3, strides))
        x = keras.layers.Add()([_normalized(inner, filters, 3, 1), shortcut])
        x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(128, activation="relu", **_affine(None))(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, **_affine(None))(x))


def _normalized(x, filters, size, strides):
    x = keras.layers.Conv2D(filters, size, strides=strides, use_bias=False, **_affine())(x)
    # The bounds use the moving statistics, which must keep up with the weights.
    return keras.layers.BatchNormalization(momentum=0.9)(x)


def _affine(padding="same"):
    """Returns the arguments of a Dense layer, or of a Conv layer with a padding."""
    arguments = {
        "kernel_initializer": kr.initializers.IBPNormal(),
        "kernel_regularizer": keras.regularizers.L1(L1),
    }
    return arguments if padding is None else {**arguments, "padding": padding}


def compiled(recipe, dataset, steps):
    """Returns the compiled model of a recipe, and its `AdvTrain`.

    Args:
        recipe: `Recipe`.
        dataset: `keras_robust.datasets.Dataset`.
        steps: int, the optimizer steps of the training.
    """
    model = recipe.network(dataset.input_shape, dataset.num_classes)
    rates = [LEARNING_RATE, 0.2 * LEARNING_RATE, 0.04 * LEARNING_RATE]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [int(share * steps) for share in DECAYS], rates
    )
    model.compile(
        keras.optimizers.Adam(schedule, global_clipnorm=CLIP),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    ramp = int(RAMP * steps)
    penalty = keras.optimizers.schedules.PolynomialDecay(PENALTY, ramp, 0.0)
    ball = kr.Linf(recipe.epsilon)
    return model, kr.AdvTrain(ball, objective=recipe.objective(penalty), warmup=ramp)
