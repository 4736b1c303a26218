"""Attacks a trained classifier and prints what is left of its accuracy.

    python -m apps.evaluate --model=runs/latest/model.keras
    python -m apps.evaluate --model=runs/latest/saved_model/1

Reads a .keras file or a SavedModel of apps.export. The first takes about 20 seconds on two CPU
cores.
"""

import pathlib
import sys

from absl import flags
from rich.console import Console

import keras_robust as kr
from apps import cli
from apps import models
from apps import shared_flags


def define_flags():
    """Defines the flags of this program."""
    shared_flags.define_data()
    shared_flags.define_threat_model()
    shared_flags.define_evaluation()
    flags.DEFINE_string("model", None, "A .keras file, or the folder of a SavedModel.")
    flags.DEFINE_string(
        "output_dir", None, "Folder for report.json and, with matplotlib, examples.png."
    )
    flags.mark_flag_as_required("model")


def run(model, dataset, threat_model, suite, *, num_examples, batch_size, seed, output_dir):
    """Evaluates a model, prints the table, writes the report.

    Args:
        model: `keras.Model` or a callable that returns logits.
        dataset: `keras_robust.datasets.Dataset`.
        threat_model: `ThreatModel`.
        suite: list of attacks.
        num_examples: int or `None`.
        batch_size: int.
        seed: int.
        output_dir: str or `None`.

    Returns:
        `RobustnessReport`.
    """
    report = kr.evaluate(
        model,
        dataset.test,
        threat_model,
        suite,
        num_examples=num_examples,
        batch_size=batch_size,
        seed=seed,
        verbose=sys.stdout.isatty(),
    )
    Console().print(report)
    if output_dir is not None:
        folder = pathlib.Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        report.save(folder / "report.json")
        try:
            report.plot(str(folder / "examples.png"))
        except ImportError as error:
            print(error)
        print(f"Written to {folder}")
    return report


def main(_):
    values = flags.FLAGS
    model = models.load_for_attack(values.model)
    dataset = shared_flags.load_dataset(values.dataset, values.data_dir)
    if hasattr(model, "input_shape"):
        models.check_fit(model, dataset)
    run(
        model,
        dataset,
        shared_flags.make_threat_model(values.threat_model, values.epsilon, values.dataset),
        shared_flags.make_suite(values.evaluation_steps, values.evaluation_restarts),
        num_examples=values.evaluation_examples,
        batch_size=values.batch_size,
        seed=values.seed,
        output_dir=values.output_dir,
    )


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
