"""Time of one train step: plain `fit`, `AdvTrain`, and a hand-written TensorFlow loop.

    python -m benchmarks.training_step

All do PGD-7 at batch 128 on 28 x 28 images with two 5 x 5 convolutions (32, 64) and a dense layer
of 1024, clean and adversarial accuracy logged. They take turns in one process, an epoch each, so
that noise of the machine hits all of them; the table shows medians over the epochs and the median
of the ratios within a turn. Takes about six minutes on two CPU cores and writes
benchmarks/results/training_step.json.
"""

import json
import os
import pathlib
import platform
import statistics
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr

_ROUNDS = flags.DEFINE_integer("rounds", 12, "Epochs of each contestant; the first is dropped.")
_STEPS = flags.DEFINE_integer("steps", 12, "Steps in an epoch.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples in a batch.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "training_step.json"), "JSON file."
)

_EPSILON, _NUM_STEPS = 0.1, 7
_STEP_SIZE = 2.5 * _EPSILON / _NUM_STEPS


def build():
    """Returns the compiled network that all contestants train."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 5, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 5, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(1024, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Turns(keras.callbacks.Callback):
    """Lets contestants in threads of their own run one epoch at a time, in turn."""

    def __init__(self, name, names, condition, state):
        super().__init__()
        self.name, self.names = name, names
        self.condition, self.state = condition, state
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.wait()

    def on_epoch_end(self, epoch, logs=None):
        self.done()

    def wait(self):
        with self.condition:
            mine = self.names.index(self.name)
            self.condition.wait_for(lambda: self.state["turn"] % len(self.names) == mine)
        self.start = time.perf_counter()

    def done(self):
        self.seconds.append(time.perf_counter() - self.start)
        with self.condition:
            self.state["turn"] += 1
            self.condition.notify_all()


def fit(callbacks):
    """Returns a contestant: Keras's `fit` with some callbacks."""

    def run(data, rounds, turns):
        build().fit(data, epochs=rounds, verbose=0, shuffle=False, callbacks=[*callbacks, turns])

    return run


def hand_written(data, rounds, turns):
    """The same work as `AdvTrain`, as one would write it by hand: one compiled, unrolled step."""
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    per_example = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    losses = keras.metrics.Mean()
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    adv_accuracy = keras.metrics.SparseCategoricalAccuracy()

    @tf.function
    def step(x, y):
        x_adv = tf.clip_by_value(x + tf.random.uniform(tf.shape(x), -_EPSILON, _EPSILON), 0.0, 1.0)
        for _ in range(_NUM_STEPS):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x_adv)
                value = per_example(y, model(x_adv, training=False))
            gradient = tape.gradient(value, x_adv)
            x_adv = x_adv + _STEP_SIZE * tf.sign(gradient)
            x_adv = tf.clip_by_value(x_adv, x - _EPSILON, x + _EPSILON)
            x_adv = tf.clip_by_value(x_adv, 0.0, 1.0)
        with tf.GradientTape() as tape:
            outputs = model(x_adv, training=True)
            value = loss(y, outputs)
        gradients = tape.gradient(value, model.trainable_variables)
        clean = model(x, training=False)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        losses.update_state(value)
        accuracy.update_state(y, clean)
        adv_accuracy.update_state(y, outputs)

    for _ in range(rounds):
        turns.wait()
        for x, y in data:
            step(x, y)
        turns.done()


def measure(contestants, data, rounds):
    """Runs the contestants in turn; returns the seconds of each epoch but the first, by name."""
    names = list(contestants)
    condition, state = threading.Condition(), {"turn": 0}
    turns = {name: Turns(name, names, condition, state) for name in names}
    threads = [
        threading.Thread(target=contestants[name], args=(data, rounds, turns[name]))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: turns[name].seconds[1:] for name in names}


def summarise(seconds, steps, reference):
    """Returns, by name, the median milliseconds a step and the median ratio to the reference."""
    return {
        name: {
            "milliseconds": round(1e3 * statistics.median(times) / steps, 2),
            "ratio": round(
                statistics.median(t / r for t, r in zip(times, seconds[reference], strict=True)),
                3,
            ),
        }
        for name, times in seconds.items()
    }


def main(_):
    steps, batch_size = _STEPS.value, _BATCH_SIZE.value
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(steps * batch_size, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, size=len(x))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True)
    attack = kr.attacks.PGD(num_steps=_NUM_STEPS)
    contestants = {
        "plain fit": fit([]),
        "hand-written TensorFlow loop": hand_written,
        "AdvTrain": fit([kr.AdvTrain(kr.Linf(_EPSILON), attack=attack)]),
    }
    seconds = measure(contestants, data.cache().prefetch(2), _ROUNDS.value)
    rows = summarise(seconds, steps, "hand-written TensorFlow loop")
    table = Table(title=f"PGD-{_NUM_STEPS}, batch {batch_size}, medians of {_ROUNDS.value - 1}")
    for heading in ("", "ms a step", "ratio to hand-written"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in rows.items():
        table.add_row(name, f"{row['milliseconds']:.1f}", f"{row['ratio']:.3f}")
    Console().print(table)
    result = {
        "command": "python -m benchmarks.training_step "
        f"--rounds={_ROUNDS.value} --steps={steps} --batch_size={batch_size}",
        "rows": rows,
        "seconds_per_epoch": {n: [round(t, 4) for t in ts] for n, ts in seconds.items()},
        "settings": {"steps": steps, "batch_size": batch_size, "num_steps": _NUM_STEPS},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    }
    path = pathlib.Path(_OUTPUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
