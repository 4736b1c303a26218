"""Certified accuracy in Linf of networks that were trained on interval bounds.

    python -m benchmarks.certified_training --data_dir=DIR
    python -m benchmarks.certified_training --data_dir=DIR --only=mnist_0.3_ibp_small --epochs=20

A row is a data set, a radius, an objective (IBP, MTL-IBP, SABR) and a network: the small
convolutional network of the other benchmarks, a wide one, or residual blocks with
BatchNormalization. All of them start from `IBPNormal`, with the penalty on wide boxes and one-sided
ReLUs while epsilon grows, over 30% of the steps; Adam with 1e-3, a fifth of it after 70% and again
after 85%; gradients of norm 10 at most; an L1 penalty of 1e-6 on the kernels. They train on all
training images, without augmentation and without a choice by validation.

All test images are certified: by intervals, and those that intervals leave open by CROWN, if
`--crown_examples` says so. PGD-50 bounds the robust accuracy from above.

Published, certified on all 10,000 test images by deterministic methods: Fashion-MNIST, 0.1: 79.2;
MNIST, 0.1: 98.1; MNIST, 0.3: 93.4, all by large networks on GPUs.

Rows that the output has already, under the same settings, are kept, and a training that was killed
goes on after its last whole epoch, so that the same command goes on after a kill.
"""

import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from benchmarks import certified_recipes as recipes
from benchmarks import results

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared data sets.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of each training, instead of the usual.")
_CROWN = flags.DEFINE_integer("crown_examples", 200, "Test images left open that CROWN tries.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, data order and attacks.")
_ONLY = flags.DEFINE_list("only", None, "Names of the rows to run; all by default.")
_WORK_DIR = flags.DEFINE_string("work_dir", "runs/certified_training", "Folder for the models.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "certified_training.json"), "JSON."
)

_COMMAND = "python -m benchmarks.certified_training --data_dir=DIR"
PUBLISHED = {"fashion_mnist_0.1": 0.7923, "mnist_0.1": 0.9814, "mnist_0.3": 0.934}


class _Seconds(keras.callbacks.Callback):
    """Adds up the seconds of the epochs in a file, over all processes of a training."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def total(self):
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.total() + time.perf_counter() - self._start
        self.path.write_text(json.dumps(round(seconds, 1)), encoding="utf-8")


def train(recipe, epochs, dataset, folder):
    """Returns the trained model and the seconds of its training, read where that was done before.

    Args:
        recipe: `certified_recipes.Recipe`.
        epochs: int.
        dataset: `keras_robust.datasets.Dataset`.
        folder: path, for the model and the state of an unfinished training.
    """
    path, seconds = folder / "model.keras", _Seconds(folder / "seconds.json")
    if path.exists():
        return keras.models.load_model(path), seconds.total()
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(_SEED.value)
    x, y = map(np.concatenate, zip(dataset.train, dataset.validation, strict=True))
    steps = epochs * -(-len(x) // recipes.BATCH_SIZE)
    model, robust = recipes.compiled(recipe, dataset, steps)
    callbacks = [robust, keras.callbacks.BackupAndRestore(folder / "backup"), seconds]
    model.fit(x, y, batch_size=recipes.BATCH_SIZE, epochs=epochs, callbacks=callbacks, verbose=2)
    model.save(path)
    return model, seconds.total()


def judge(recipe, model, dataset):
    """Returns what is proven about a model at the radius of its recipe, and what PGD finds."""
    x, y = dataset.test
    # Bisection tries half of the largest radius first: exactly the radius of the recipe.
    shared = {"max_radius": 2.0 * recipe.epsilon, "num_steps": 6}
    report = kr.certify(model, dataset.test, "interval", **shared)
    right = np.equal(report.labels, report.predictions)
    proven = right & (np.asarray(report.radii) >= recipe.epsilon)
    by_interval = float(np.mean(proven))
    attacks = [kr.attacks.PGD(num_steps=50)]
    attacked = kr.evaluate(
        model, dataset.test, kr.Linf(recipe.epsilon), attacks, minimum_norm=None, seed=_SEED.value
    )
    still_open = np.flatnonzero(right & ~proven)[: _CROWN.value]
    if len(still_open):
        shared["num_steps"] = 1
        more = kr.certify(model, (x[still_open], y[still_open]), "crown", **shared)
        proven[still_open] = np.asarray(more.radii) >= recipe.epsilon
    return {
        "clean_accuracy": report.clean_accuracy,
        "certified_by_interval": by_interval,
        "certified": float(np.mean(proven)),
        "tried_by_crown": len(still_open),
        "pgd_accuracy": attacked.robust_accuracy,
        "examples": report.num_examples,
    }


def show(done):
    """Prints the table."""
    table = Table(title="Linf, all test images, in per cent")
    headings = (
        "",
        "clean",
        "certified",
        "by intervals",
        "PGD-50",
        "published",
        "epochs",
        "minutes",
    )
    for heading in headings:
        table.add_column(heading, no_wrap=not heading)
    for name, row in done.items():
        keys = ("clean_accuracy", "certified", "certified_by_interval", "pgd_accuracy", "published")
        cells = [f"{100 * row[key]:.2f}" for key in keys]
        table.add_row(name, *cells, str(row["epochs"]), f"{row['train_seconds'] / 60:.0f}")
    Console().print(table)


def main(_):
    settings = {
        "seed": _SEED.value,
        "batch_size": recipes.BATCH_SIZE,
        "learning_rate": recipes.LEARNING_RATE,
        "ramp": recipes.RAMP,
        "penalty": recipes.PENALTY,
        "l1": recipes.L1,
        "clip": recipes.CLIP,
    }
    output, folder = pathlib.Path(_OUTPUT.value), pathlib.Path(_WORK_DIR.value)
    result = results.load(output, settings)
    done = result["rows"]
    for name, recipe in recipes.recipes().items():
        if name in done or (_ONLY.value and name not in _ONLY.value):
            continue
        dataset = kr.datasets.load(recipe.dataset, data_dir=_DATA_DIR.value)
        epochs = _EPOCHS.value or recipe.epochs
        print(f"{name}:", flush=True)
        own = folder / f"{name}_{epochs}_epochs_seed_{_SEED.value}"
        model, seconds = train(recipe, epochs, dataset, own)
        row = {"epochs": epochs, "train_seconds": seconds, "parameters": model.count_params()}
        row["command"] = f"{_COMMAND} --only={name} --epochs={epochs}"
        row["published"] = PUBLISHED[f"{recipe.dataset}_{recipe.epsilon}"]
        done[name] = {**row, **judge(recipe, model, dataset)}
        # Another run may have added rows in the meantime.
        done.update({**results.load(output, settings)["rows"], name: done[name]})
        results.save(output, {**result, "command": _COMMAND})
    show(done)


if __name__ == "__main__":
    app.run(main)
