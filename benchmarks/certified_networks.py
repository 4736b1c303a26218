"""The networks of `benchmarks.certified_accuracy`, and how each is trained for a certificate."""

import dataclasses
import json
import time
import typing

import keras

import keras_robust as kr
from apps import models

SIGMA = 0.25
ALPHA = 0.001
EPSILON = 0.1
TRAINING_FACTOR = 1.1  # Of epsilon in IBP.
RAMP = 0.4
BATCH_SIZE = 128


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A row of the table, but for the data.

    Args:
        network: function `(input_shape, num_classes)` that returns a model.
        arguments: function of the number of optimizer steps that returns arguments of `AdvTrain`,
            or `None` for plain training.
        method: name of the certificate, with its arguments in `options`.
        norm: name of the norm of its radii.
        radius: float, at which it is attacked.
        epochs: dict from data sets to int.
        temperature: float, of the loss.
        learning_rate: float, of Adam; a tenth of it for the last quarter of the steps.
        options: dict of arguments of the certificate.
        is_proven: bool, whether the certificate is expected to say much: then AutoAttack runs too.
    """

    network: typing.Callable
    arguments: typing.Callable | None
    method: str
    norm: str
    radius: float
    epochs: dict
    temperature: float = 1.0
    learning_rate: float = 1e-3
    options: dict = dataclasses.field(default_factory=dict)
    is_proven: bool = True

    def ball(self):
        """Returns the threat model of the attacks."""
        return getattr(kr.threat_models, self.norm)(self.radius)


def recipes(num_samples):
    """Returns the rows by name, without the data set.

    Args:
        num_samples: int, noisy copies of an image in smoothing.
    """
    smoothing = {"noise_stddev": SIGMA, "num_samples": num_samples, "alpha": ALPHA}
    small = models.small_cnn
    return {
        "smoothing": Recipe(
            small,
            lambda steps: {"objective": kr.objectives.GaussianNoise(SIGMA)},
            "smoothing",
            "L2",
            0.25,
            {"digits": 40, "fashion_mnist": 8},
            options=smoothing,
        ),
        "ibp": Recipe(
            small, _ibp, "interval", "Linf", EPSILON, {"digits": 300, "fashion_mnist": 40}
        ),
        "pgd": Recipe(
            small,
            lambda steps: {
                "threat_model": kr.Linf(EPSILON),
                "attack": kr.attacks.PGD(num_steps=7),
            },
            "interval",
            "Linf",
            EPSILON,
            {"digits": 40, "fashion_mnist": 3},
            is_proven=False,
        ),
        "lipschitz": Recipe(orthogonal, None, "lipschitz", "L2", 0.25, {"digits": 40}, 0.1, 3e-3),
        "linear": Recipe(
            linear,
            lambda steps: {"threat_model": kr.Linf(EPSILON), "objective": "worst_case_linear"},
            "linear",
            "Linf",
            EPSILON,
            {"digits": 100},
            learning_rate=1e-2,
        ),
    }


def _ibp(steps):
    ramp = int(RAMP * steps)
    kappa = keras.optimizers.schedules.PolynomialDecay(1.0, ramp, 0.5)
    return {
        "threat_model": kr.Linf(TRAINING_FACTOR * EPSILON),
        "objective": kr.objectives.IBP(kappa),
        "warmup": ramp,
    }


def orthogonal(input_shape, num_classes):
    """Returns a network of which every layer is 1-Lipschitz in L2."""
    layers = [
        keras.layers.Flatten(),
        kr.layers.SpectralDense(256),
        kr.layers.GroupSort(),
        kr.layers.SpectralDense(128),
        kr.layers.GroupSort(),
        kr.layers.SpectralDense(num_classes),
    ]
    return keras.Sequential([keras.Input(input_shape), *layers])


def linear(input_shape, num_classes):
    """Returns a linear classifier."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(num_classes)]
    return keras.Sequential([keras.Input(input_shape), *layers])


def train(recipe, dataset, path, seed):
    """Returns a model and the seconds of its training, read where that was done before."""
    note = path.with_suffix(".json")
    if note.exists():
        seconds = json.loads(note.read_text(encoding="utf-8"))["train_seconds"]
        return keras.models.load_model(path), seconds
    keras.utils.set_random_seed(seed)
    model = recipe.network(dataset.input_shape, dataset.num_classes)
    epochs = recipe.epochs[dataset.name]
    steps = epochs * -(-len(dataset.train[0]) // BATCH_SIZE)
    rate = recipe.learning_rate
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [int(0.75 * steps)], [rate, 0.1 * rate]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if recipe.temperature != 1.0:
        loss = kr.losses.TemperatureCrossEntropy(recipe.temperature)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    callbacks = []
    if recipe.arguments is not None:
        callbacks.append(kr.AdvTrain(seed=seed, **recipe.arguments(steps)))
    start = time.perf_counter()
    model.fit(*dataset.train, batch_size=BATCH_SIZE, epochs=epochs, callbacks=callbacks, verbose=2)
    seconds = round(time.perf_counter() - start, 1)
    model.save(path)
    note.write_text(json.dumps({"train_seconds": seconds}), encoding="utf-8")
    return model, seconds


def without_iterations(model):
    """Returns a copy of a Sequential model whose orthogonal layers do not make their kernels anew.

    An attack calls a model thousands of times, and all that time its weights stay.
    """
    copies = []
    for layer in model.layers:
        config = {"name": layer.name}
        if isinstance(layer, kr.layers.SpectralDense):
            copies.append(keras.layers.Dense(layer.units, **config))
        else:
            copies.append(type(layer).from_config(layer.get_config()))
    copy = keras.Sequential([keras.Input(model.input_shape[1:]), *copies])
    for layer, own in zip(model.layers, copies, strict=True):
        has_kernel = hasattr(layer, "effective_kernel")
        own.set_weights(
            [layer.effective_kernel(), layer.bias] if has_kernel else layer.get_weights()
        )
    return copy
