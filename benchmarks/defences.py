"""Every defence on Fashion-MNIST: the same small network, the same epochs, the same attacks.

    python -m benchmarks.defences --data_dir=DIR

A row is trained with `AdvTrain` at Linf 0.1 and judged on the first 1,000 test images by PGD-50
with 2 restarts on the cross-entropy and on the margin; robust is the worst case of both. Rows that
benchmarks/results/defences.json has already, under the same settings, are kept, so that the same
command goes on after a kill; models go to --work_dir. Takes about an hour on two CPU cores.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from apps import defences
from apps import models
from benchmarks import results

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared Fashion-MNIST.")
_EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of every training.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples in a batch.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, data order and attacks.")
_ONLY = flags.DEFINE_list("only", None, "Names of the rows to run; all by default.")
_WORK_DIR = flags.DEFINE_string("work_dir", "runs/defences", "Folder for the trained models.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "defences.json"), "JSON file."
)

_BALL = kr.Linf(0.1)
_LEARNING_RATE = 2e-3
_TEMPERATURE = 20.0
_NUM_EXAMPLES = 1000
_SUITE = {
    loss: kr.attacks.PGD(num_steps=50, num_restarts=2, loss=loss)
    for loss in ("cross_entropy", "margin")
}


def rows():
    """Returns, by name, a function that takes a function `load` of earlier rows to `AdvTrain`."""
    table = {name: _plain_row(name) for name in defences.names()}
    # Their teacher is the model of an earlier row.
    table["defensive_distillation"] = lambda load: {
        "objective": kr.objectives.DefensiveDistillation(load("teacher"), _TEMPERATURE)
    }
    table["ard"] = lambda load: {"objective": kr.objectives.ARD(load("madry"))}
    table["rslad"] = lambda load: {"objective": kr.objectives.RSLAD(load("madry"))}
    # Need a linear model; another name for a row that is there.
    for name in ("worst_case_linear", "adversarial", "mixed", "logit_pairing", "adversarial_pool"):
        table.pop(name, None)
    return {"clean": table.pop("clean"), "madry": table.pop("madry"), **table}


def _plain_row(name):
    return lambda load: defences.arguments(name)


def train(name, make, dataset, folder):
    """Trains one row, saves its model, and returns the model, the arguments and the seconds."""

    def load(earlier):
        path = folder / f"{earlier}.keras"
        if not path.exists():
            if earlier != "teacher":
                raise ValueError(f"The row {name!r} needs the row {earlier!r}: run it first.")
            loss = kr.losses.TemperatureCrossEntropy(_TEMPERATURE)
            _fit(dataset, {"objective": "clean"}, loss)[0].save(path)
        return keras.models.load_model(path)

    arguments = make(load)
    model, seconds = _fit(dataset, arguments)
    model.save(folder / f"{name}.keras")
    return model, arguments, seconds


def _fit(dataset, arguments, loss=None):
    keras.utils.set_random_seed(_SEED.value)
    model = models.build(models.SMALL_CNN, dataset, _LEARNING_RATE)
    if loss is not None:
        model.compile(keras.optimizers.Adam(_LEARNING_RATE), loss, metrics=["accuracy"])
    adv_train = kr.AdvTrain(_BALL, seed=_SEED.value, **arguments)
    start = time.perf_counter()
    model.fit(
        *dataset.train,
        batch_size=_BATCH_SIZE.value,
        epochs=_EPOCHS.value,
        callbacks=[adv_train],
        verbose=2,
    )
    return model, time.perf_counter() - start


def judge(model, dataset):
    """Returns the accuracies of a model, as shares of the attacked examples."""
    report = kr.evaluate(
        model, dataset.test, _BALL, list(_SUITE.values()), num_examples=_NUM_EXAMPLES
    )
    found = dict(zip(_SUITE, (attack.accuracy for attack in report.attacks), strict=True))
    return {
        "clean": report.clean_accuracy,
        "pgd_cross_entropy": found["cross_entropy"],
        "pgd_margin": found["margin"],
        "robust": report.robust_accuracy,
        "warnings": list(report.warnings),
    }


def show(done):
    """Prints the table."""
    table = Table(title=f"Fashion-MNIST, Linf 0.1, {_EPOCHS.value} epochs, accuracy in per cent")
    for heading in ("", "clean", "PGD-50 cross-entropy", "PGD-50 margin", "robust", "seconds"):
        table.add_column(heading, justify="right" if heading else "left")
    columns = ("clean", "pgd_cross_entropy", "pgd_margin", "robust")
    for name, row in sorted(done.items(), key=lambda item: -item[1]["robust"]):
        figures = [f"{100 * row[column]:.1f}" for column in columns]
        table.add_row(name, *figures, f"{row['train_seconds']:.0f}")
    Console().print(table)


def main(_):
    settings = {
        "epochs": _EPOCHS.value,
        "batch_size": _BATCH_SIZE.value,
        "seed": _SEED.value,
        "learning_rate": _LEARNING_RATE,
        "threat_model": repr(_BALL),
        "examples": _NUM_EXAMPLES,
        "attacks": [repr(attack) for attack in _SUITE.values()],
    }
    output = pathlib.Path(_OUTPUT.value)
    result = results.load(output, settings)
    done = result["rows"]
    dataset = kr.datasets.load("fashion_mnist", data_dir=_DATA_DIR.value)
    folder = pathlib.Path(_WORK_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in rows().items():
        if name in done or (_ONLY.value and name not in _ONLY.value):
            continue
        print(f"Training {name}:", flush=True)
        model, arguments, seconds = train(name, make, dataset, folder)
        done[name] = {
            "arguments": {key: repr(value) for key, value in arguments.items()},
            **judge(model, dataset),
            "train_seconds": round(seconds, 1),
        }
        command = f"python -m benchmarks.defences --data_dir=DIR --epochs={_EPOCHS.value}"
        results.save(output, {**result, "command": command})
    show(done)


if __name__ == "__main__":
    app.run(main)
