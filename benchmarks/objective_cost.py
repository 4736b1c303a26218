"""Time of one train step of every objective, against its floor: the passes that it cannot avoid.

    python -m benchmarks.objective_cost

The network, the batch and the data are those of `benchmarks.training_step`. The floor of an
objective is a plain step, and for each further pass counted below the time of such a pass, measured
in the same run: `train`, forward and backward to the weights; `attack`, forward and gradient to the
input; `forward`; `double`, forward, gradient to the input, and the gradient of its squared norm to
the weights. All take turns, an epoch each; the table shows medians of processor time. Takes about
5 minutes on two CPU cores and writes benchmarks/results/objective_cost.json.
"""

import os
import pathlib
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from benchmarks import results
from benchmarks import turns

_ROUNDS = flags.DEFINE_integer("rounds", 7, "Epochs of each contestant; the first is dropped.")
_STEPS = flags.DEFINE_integer("steps", 8, "Steps in an epoch.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples in a batch.")
_ONLY = flags.DEFINE_list("only", None, "Names of the objectives to measure; all by default.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "objective_cost.json"), "JSON file."
)

_PGD = kr.attacks.PGD(num_steps=7)
_UNITS = ("plain", "train", "attack", "forward", "double")


def objectives():
    """Returns, by name, arguments of `AdvTrain` and the passes beside those of a plain step.

    A `forward` that is not the objective's own is that of the clean metrics, where the objective
    does not run the model on clean examples.
    """
    teacher = turns.build()
    wrapped = kr.objectives
    return {
        "clean": ({"objective": "clean"}, {}),
        "adversarial": ({"attack": _PGD}, {"attack": 7, "forward": 1}),
        "mixed": ({"objective": "mixed", "attack": "fgsm"}, {"attack": 1, "train": 1}),
        "kurakin": ({"objective": "kurakin"}, {"attack": 0.5, "forward": 1.5}),
        "logit_pairing": (
            {"objective": "logit_pairing", "attack": _PGD},
            {"attack": 7, "train": 1},
        ),
        "clean_logit_pairing": ({"objective": "clean_logit_pairing"}, {"forward": 1}),
        "logit_squeezing": ({"objective": "logit_squeezing"}, {"forward": 1}),
        "label_smoothing": ({"objective": "label_smoothing"}, {}),
        "trades": (
            {"objective": "trades", "attack": _PGD},
            {"attack": 7, "train": 1, "forward": 1},
        ),
        "mart": ({"objective": "mart", "attack": _PGD}, {"attack": 7, "train": 1}),
        "awp": ({"objective": "awp", "attack": _PGD}, {"attack": 7, "train": 1, "forward": 1}),
        "awp_trades": (
            {"objective": wrapped.AWP(0.005, "trades"), "attack": _PGD},
            {"attack": 7, "train": 3, "forward": 1},
        ),
        "free": ({"objective": wrapped.Free(num_replays=4)}, {"plain": 3, "forward": 1}),
        "random_start_fgsm": ({"attack": "random_start_fgsm"}, {"attack": 1, "forward": 1}),
        "n_fgsm": ({"attack": "n_fgsm"}, {"attack": 1, "forward": 1}),
        "grad_align": ({"objective": "grad_align"}, {"attack": 2, "forward": 1, "double": 1}),
        "vat": ({"objective": "vat"}, {"attack": 1, "forward": 1, "train": 1}),
        "input_gradient": ({"objective": "input_gradient"}, {"double": 1}),
        "jacobian": ({"objective": "jacobian"}, {"double": 1}),
        "mma": ({"objective": "mma", "attack": _PGD}, {"attack": 7, "forward": 11, "train": 1}),
        "defensive_distillation": (
            {"objective": wrapped.DefensiveDistillation(teacher)},
            {"forward": 1},
        ),
        "ard": (
            {"objective": wrapped.ARD(teacher), "attack": _PGD},
            {"attack": 7, "forward": 2},
        ),
        "rslad": (
            {"objective": wrapped.RSLAD(teacher), "attack": _PGD},
            {"attack": 7, "forward": 1, "train": 1},
        ),
    }


def single_pass(kind):
    """Returns a contestant that does one kind of pass, and nothing else, per batch."""

    def run(data, rounds, turn):
        model = turns.build()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

        def input_gradient(x, y):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                value = loss(y, model(x, training=False))
            return tape.gradient(value, x)

        def weight_gradient(function, x, y):
            with tf.GradientTape() as tape:
                value = function(x, y)
            return tape.gradient(value, model.trainable_variables)

        passes = {
            "forward": lambda x, y: tf.argmax(model(x, training=False), axis=-1),
            "attack": input_gradient,
            "train": lambda x, y: weight_gradient(lambda x, y: loss(y, model(x)), x, y),
            "double": lambda x, y: weight_gradient(
                lambda x, y: tf.reduce_sum(tf.square(input_gradient(x, y))), x, y
            ),
        }
        step = tf.function(passes[kind])
        for _ in range(rounds):
            turn.wait()
            for x, y in data:
                step(x, y)
            turn.done()

    return run


def floors(seconds, passes):
    """Returns the floor of every epoch, in seconds, from the times of single passes."""
    counts = {"plain": 1.0}
    for kind, count in passes.items():
        counts[kind] = counts.get(kind, 0.0) + count
    epochs = zip(*(seconds[f"1 {kind}"] for kind in counts), strict=True)
    return [
        sum(count * time for count, time in zip(counts.values(), epoch, strict=True))
        for epoch in epochs
    ]


def main(_):
    steps, batch_size = _STEPS.value, _BATCH_SIZE.value
    chosen = objectives()
    if _ONLY.value:
        chosen = {name: chosen[name] for name in _ONLY.value}
    contestants = {f"1 {kind}": single_pass(kind) for kind in _UNITS if kind != "plain"}
    contestants["1 plain"] = turns.fit([])
    for name, (arguments, _) in chosen.items():
        contestants[name] = turns.fit([kr.AdvTrain(kr.Linf(0.1), **arguments)])
    seconds = turns.measure(contestants, turns.random_images(steps, batch_size), _ROUNDS.value)
    rows = turns.summarise(seconds, steps, "1 plain")
    table = Table(title=f"batch {batch_size}, medians of {_ROUNDS.value - 1} epochs")
    for heading in ("", "CPU ms a step", "of a plain step", "passes", "of the floor"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in rows.items():
        passes = chosen[name][1] if name in chosen else {}
        if name in chosen:
            floor = floors(seconds, passes)
            shares = (time / low for time, low in zip(seconds[name], floor, strict=True))
            row["passes"] = {"plain": 1, **passes}
            row["of_floor"] = round(statistics.median(shares), 3)
        counted = " + ".join(f"{count:g} {kind}" for kind, count in passes.items())
        shown = f"{row['of_floor']:.2f}" if "of_floor" in row else ""
        table.add_row(name, f"{row['cpu_milliseconds']:.1f}", f"{row['ratio']:.2f}", counted, shown)
    Console().print(table)
    command = f"--rounds={_ROUNDS.value} --steps={steps} --batch_size={batch_size}"
    result = {
        "command": f"python -m benchmarks.objective_cost {command}",
        "rows": rows,
        "seconds_per_epoch": {n: [round(t, 4) for t in ts] for n, ts in seconds.items()},
        "settings": {"steps": steps, "batch_size": batch_size, "num_steps": 7},
    }
    results.save(_OUTPUT.value, result)


if __name__ == "__main__":
    app.run(main)
