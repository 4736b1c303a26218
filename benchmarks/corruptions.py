"""Accuracy under corruptions on Fashion-MNIST, of a network with and without adversarial training.

    python -m benchmarks.corruptions --data_dir=DIR

Trains the same small network plainly and with `AdvTrain` at Linf 0.1, and measures both on the
first 1,000 test images, with all kinds and severities. The plain network is the baseline of the
mean corruption error. Takes about ten minutes on two CPU cores; a run that was cut off goes on
where it was.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app
from absl import flags

import keras_robust as kr
from apps import models
from benchmarks import results

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared data.", required=True)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of every training.")
_EXAMPLES = flags.DEFINE_integer("num_examples", 1000, "Test images.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "corruptions.json"), "JSON file."
)

_BALL = kr.Linf(0.1)
_LEARNING_RATE = 2e-3
_SEED = 0
_BASELINE = "plain"
_CALLBACKS = {
    _BASELINE: lambda: [],
    "adversarial, Linf 0.1": lambda: [kr.AdvTrain(_BALL, seed=_SEED)],
}


def train(dataset, callbacks):
    """Returns a trained network, and the seconds that it took."""
    keras.utils.set_random_seed(_SEED)
    model = models.build(models.SMALL_CNN, dataset, _LEARNING_RATE)
    start = time.perf_counter()
    model.fit(*dataset.train, batch_size=128, epochs=_EPOCHS.value, callbacks=callbacks, verbose=2)
    return model, time.perf_counter() - start


def main(_):
    settings = {
        "command": "python -m benchmarks.corruptions --data_dir=DIR",
        "epochs": _EPOCHS.value,
        "learning_rate": _LEARNING_RATE,
        "seed": _SEED,
        "num_examples": _EXAMPLES.value,
    }
    result = results.load(_OUTPUT.value, settings)
    rows = result["rows"]
    dataset = kr.datasets.load("fashion_mnist", data_dir=_DATA_DIR.value)
    for name, make in _CALLBACKS.items():
        if name not in rows:
            model, seconds = train(dataset, make())
            baseline = rows.get(_BASELINE)
            report = kr.evaluation.corruptions(
                model,
                dataset.test,
                num_examples=_EXAMPLES.value,
                baseline=baseline and kr.evaluation.CorruptionReport.from_dict(baseline["report"]),
            )
            rows[name] = {"train_seconds": seconds, "report": report.to_dict()}
            results.save(_OUTPUT.value, result)
        print(name, kr.evaluation.CorruptionReport.from_dict(rows[name]["report"]), sep="\n")


if __name__ == "__main__":
    app.run(main)
