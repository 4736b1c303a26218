"""How the time of a step grows with the steps of the attack and with the size of the images.

    python -m benchmarks.scaling

A network of three convolutions with strides, which takes images of any size, batch 64. Plain `fit`
and `AdvTrain` with PGD of k steps take turns, an epoch each, at every image size; the table shows
medians over the epochs, of processor time, and the ratio to the plain step of the same turn. Beside
it stands what the passes of a step say: a plain step is three forward passes (a backward pass to
the weights is two), an attack step two, and the clean metrics one. Takes about two minutes on two
CPU cores and writes benchmarks/results/scaling.json.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from benchmarks import results
from benchmarks import turns

_ROUNDS = flags.DEFINE_integer("rounds", 8, "Epochs of each contestant; the first is dropped.")
_STEPS = flags.DEFINE_integer("steps", 5, "Steps in an epoch.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "scaling.json"), "JSON file."
)

_BATCH_SIZE = 64
_CASES = {32: (1, 3, 7), 64: (3,), 96: (3,)}


def _build(size):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, metrics=["accuracy"])
    return model


def _data(size, steps):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(steps * _BATCH_SIZE, size, size, 3)).astype("float32")
    y = rng.integers(0, 10, size=len(x))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(_BATCH_SIZE, drop_remainder=True)
    return data.cache().prefetch(2)


def _fit(size, callbacks):
    def run(data, rounds, turn):
        callbacks_and_turn = [*callbacks, turn]
        _build(size).fit(data, epochs=rounds, verbose=0, callbacks=callbacks_and_turn)

    return run


def passes(num_steps):
    """Returns the forward passes that a step of PGD costs, over those of a plain one."""
    return (3 + 2 * num_steps + 1) / 3


def main(_):
    rows = []
    for size, all_steps in _CASES.items():
        contestants = {"plain": _fit(size, [])}
        for num_steps in all_steps:
            attack = kr.attacks.PGD(num_steps=num_steps)
            contestants[f"PGD-{num_steps}"] = _fit(
                size, [kr.AdvTrain("linf", attack=attack, warmup=0)]
            )
        seconds = turns.measure(contestants, _data(size, _STEPS.value), _ROUNDS.value)
        found = turns.summarise(seconds, _STEPS.value, "plain")
        for num_steps, (name, row) in zip((None, *all_steps), found.items(), strict=True):
            expected = 1.0 if num_steps is None else round(passes(num_steps), 2)
            rows.append({"size": size, "step": name, **row, "passes": expected})
    table = Table(title=f"batch {_BATCH_SIZE}, medians of {_ROUNDS.value - 1}")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    result = {
        "command": f"python -m benchmarks.scaling --rounds={_ROUNDS.value} --steps={_STEPS.value}",
        "rows": rows,
        "settings": {"batch_size": _BATCH_SIZE},
    }
    results.save(_OUTPUT.value, result)


if __name__ == "__main__":
    app.run(main)
