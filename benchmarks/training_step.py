"""Time of one train step: plain `fit`, `AdvTrain`, and a hand-written TensorFlow loop.

    python -m benchmarks.training_step

All do PGD-7 at batch 128 on 28 x 28 images with two 5 x 5 convolutions (32, 64) and a dense layer
of 1024, clean and adversarial accuracy logged. They take turns in one process, an epoch each, so
that noise of the machine hits all of them; the table shows medians over the epochs and the median
of the ratios within a turn. Takes about six minutes on two CPU cores and writes
benchmarks/results/training_step.json.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from benchmarks import turns

_ROUNDS = flags.DEFINE_integer("rounds", 12, "Epochs of each contestant; the first is dropped.")
_STEPS = flags.DEFINE_integer("steps", 12, "Steps in an epoch.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples in a batch.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "training_step.json"), "JSON file."
)

_EPSILON, _NUM_STEPS = 0.1, 7
_STEP_SIZE = 2.5 * _EPSILON / _NUM_STEPS


def hand_written(data, rounds, turn):
    """The same work as `AdvTrain`, as one would write it by hand: one compiled, unrolled step."""
    model = turns.build()
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
        turn.wait()
        for x, y in data:
            step(x, y)
        turn.done()


def main(_):
    steps, batch_size = _STEPS.value, _BATCH_SIZE.value
    attack = kr.attacks.PGD(num_steps=_NUM_STEPS)
    contestants = {
        "plain fit": turns.fit([]),
        "hand-written TensorFlow loop": hand_written,
        "AdvTrain": turns.fit([kr.AdvTrain(kr.Linf(_EPSILON), attack=attack)]),
    }
    seconds = turns.measure(contestants, turns.random_images(steps, batch_size), _ROUNDS.value)
    rows = turns.summarise(seconds, steps, "hand-written TensorFlow loop")
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
    }
    turns.save(_OUTPUT.value, result)


if __name__ == "__main__":
    app.run(main)
