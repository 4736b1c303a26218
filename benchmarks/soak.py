"""A long training: does it keep its memory, its one trace and its pace?

    python -m benchmarks.soak

Four parts in one process: 2,000 adversarial steps of one `fit` (short last batches, growing
epsilon, robust validation after every 100 steps), many evaluations of one model, many short
adversarial `fit` calls, and as many plain ones after `make_train_function(force=True)`. It notes
the resident memory of the process, the traces so far and the median time of a step. Takes about
three minutes on two CPU cores, writes benchmarks/results/soak.json, and fails if the memory or the
time of a step or an evaluation grow.

The memory of many `fit` calls does grow, and says so in the file: TensorFlow keeps the gradient
functions of every train step that it ever traced, in plain Keras too, for as long as the process
lives.
"""

import pathlib

from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

import keras_robust as kr
from benchmarks import results
from benchmarks import soak_parts

_STEPS = flags.DEFINE_integer("steps", 2000, "Optimizer steps of the long training.")
_REPEATS = flags.DEFINE_integer("repeats", 40, "Short trainings, and evaluations.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "soak.json"), "JSON file."
)


def main(_):
    model, repeats = soak_parts.build(), _REPEATS.value
    steps = soak_parts.train(model, _STEPS.value)
    x, y = soak_parts.data(2)
    pgd = kr.attacks.PGD(num_steps=3)
    parts = {
        "evaluations": soak_parts.repeat(
            lambda: kr.evaluate(model, (x, y), soak_parts.BALL, pgd), repeats
        ),
        "short adversarial trainings": soak_parts.repeat(
            lambda: soak_parts.train(model, 10, 10), repeats
        ),
        "short plain trainings, retraced": soak_parts.repeat(
            lambda: soak_parts.train_plain(model), repeats
        ),
    }
    table = Table(title=f"{_STEPS.value} steps, PGD-3, batch {soak_parts.BATCH_SIZE}")
    for name in steps[0]:
        table.add_column(name, justify="right")
    for row in steps:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    left = {name: soak_parts.slope(rows) for name, rows in parts.items()}
    print(f"Megabytes that a call leaves: {left}")
    found = soak_parts.problems(steps, parts["evaluations"])
    result = {
        "command": f"python -m benchmarks.soak --steps={_STEPS.value} --repeats={repeats}",
        "problems": found,
        "megabytes_left_by_a_call": left,
        "steps": steps,
        **parts,
    }
    results.save(_OUTPUT.value, result)
    if found:
        raise SystemExit(f"error: {'; '.join(found)}")


if __name__ == "__main__":
    app.run(main)
