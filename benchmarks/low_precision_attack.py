"""Does training on a half-precision attack cost robustness? Fashion-MNIST, Linf 0.1.

    python -m benchmarks.low_precision_attack --data_dir=DIR

Trains each network with and without `AdvTrain(attack_dtype="bfloat16")`, with the same seeds, on a
part of Fashion-MNIST, and judges all of them in float32: the worst case of PGD-50 with 2 restarts
on the cross-entropy and on the margin. Both of a pair start from the same weights and see the same
batches. Takes about ten minutes on two CPU cores; a run that was cut off goes on where it was.
"""

import pathlib
import statistics
import time

import keras
from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from apps import models
from benchmarks import results
from benchmarks.contestants import network

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the TFDS data.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each kind.")
_EXAMPLES = flags.DEFINE_integer("examples", 10_000, "Training images.")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of every training.")
_TEST_EXAMPLES = flags.DEFINE_integer("test_examples", 1000, "Test images.")
_ROWS = flags.DEFINE_list("rows", ["small", "small TRADES"], "Of small, small TRADES, large.")
_OUTPUT = flags.DEFINE_string(
    "output",
    str(pathlib.Path(__file__).parent / "results" / "low_precision_attack.json"),
    "JSON file.",
)

_BALL = kr.Linf(0.1)
_BATCH_SIZE = 128
_LEARNING_RATE = 2e-3
_DTYPES = (None, "bfloat16")
_SUITE = [
    kr.attacks.PGD(num_steps=50, num_restarts=2, loss=loss) for loss in ("cross_entropy", "margin")
]


def build(row, dataset, seed):
    """Returns the compiled network of a row."""
    keras.utils.set_random_seed(seed)
    if row.startswith("small"):
        return models.build(models.SMALL_CNN, dataset, _LEARNING_RATE)
    model = network.build(seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def train(row, dataset, seed, dtype):
    """Returns a trained model, and the CPU seconds that it took."""
    model = build(row, dataset, seed)
    objective = "trades" if row.endswith("TRADES") else "adversarial"
    adv_train = kr.AdvTrain(
        _BALL,
        attack=kr.attacks.PGD(num_steps=7),
        objective=objective,
        seed=seed,
        attack_dtype=dtype,
    )
    x, y = (array[: _EXAMPLES.value] for array in dataset.train)
    keras.utils.set_random_seed(seed)  # Of the order of the data.
    start = time.process_time()
    model.fit(x, y, batch_size=_BATCH_SIZE, epochs=_EPOCHS.value, callbacks=[adv_train], verbose=0)
    return model, time.process_time() - start


def show(rows):
    """Prints, for each row and dtype, means over the seeds with their range."""
    table = Table(title="Fashion-MNIST, Linf 0.1, per cent, mean (range) over seeds")
    for heading in ("", "attack", "clean", "robust", "CPU s"):
        table.add_column(heading, justify="right" if heading else "left")
    kinds = dict.fromkeys((row["network"], row["attack_dtype"]) for row in rows.values())
    for name, dtype in kinds:
        same = [r for r in rows.values() if (r["network"], r["attack_dtype"]) == (name, dtype)]
        figures = [_mean_and_range([100 * row[key] for row in same]) for key in ("clean", "robust")]
        seconds = statistics.mean(row["cpu_seconds"] for row in same)
        table.add_row(name, dtype or "float32", *figures, f"{seconds:.0f}")
    Console().print(table)


def _mean_and_range(values):
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main(_):
    settings = {
        "examples": _EXAMPLES.value,
        "epochs": _EPOCHS.value,
        "test_examples": _TEST_EXAMPLES.value,
        "batch_size": _BATCH_SIZE,
        "threat_model": repr(_BALL),
        "attacks": [repr(attack) for attack in _SUITE],
    }
    result = results.load(_OUTPUT.value, settings)
    dataset = kr.datasets.load("fashion_mnist", data_dir=_DATA_DIR.value)
    jobs = [
        (row, seed, dtype)
        for row in _ROWS.value
        for seed in range(_SEEDS.value)
        for dtype in _DTYPES
    ]
    for row, seed, dtype in jobs:
        name = f"{row}, seed {seed}, {dtype or 'float32'}"
        if name in result["rows"]:
            continue
        model, seconds = train(row, dataset, seed, dtype)
        report = kr.evaluate(
            model,
            dataset.test,
            _BALL,
            _SUITE,
            num_examples=_TEST_EXAMPLES.value,
            minimum_norm=None,
        )
        result["rows"][name] = {
            "network": row,
            "seed": seed,
            "attack_dtype": dtype,
            "clean": report.clean_accuracy,
            "robust": report.robust_accuracy,
            "cpu_seconds": round(seconds, 1),
        }
        results.save(_OUTPUT.value, result)
        print(f"{name}: {result['rows'][name]}", flush=True)
    show(result["rows"])


if __name__ == "__main__":
    app.run(main)
