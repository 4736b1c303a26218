"""Trains a classifier against adversarial examples, and an undefended twin for comparison.

    keras-robust-train
    keras-robust-train --dataset=fashion_mnist --data_dir=DIR --epochs=10 --batch_size=128

The first command takes about a minute on two CPU cores. The program writes to --output_dir:
model.keras, a SavedModel for production servers, report.json, the report of the twin, and, with
matplotlib, examples of both. It replaces the files of an earlier run, but not its SavedModel: the
new one gets the next version number.
"""

from absl import flags

from . import cli
from . import defences
from . import models
from . import names
from . import shared_flags
from . import training

_SETTINGS = (
    "dataset bounds model epochs batch_size learning_rate seed threat_model epsilon attack "
    "num_steps objective objective_arguments clean_epochs warmup attack_dtype evaluation_steps "
    "evaluation_restarts evaluation_examples"
)


def define_flags():
    """Defines the flags of this program."""
    shared_flags.define_data()
    shared_flags.define_threat_model()
    shared_flags.define_evaluation()
    shared_flags.define_training()
    flags.DEFINE_string(
        "model",
        models.SMALL_CNN,
        f"'{models.SMALL_CNN}', or the path of your own .keras file to harden.",
    )
    names.define(
        "attack",
        None,
        map(names.snake_case, training.attacks()),
        "Attack that makes the training examples. Default: the default attack of the objective.",
    )
    names.define(
        "objective",
        "adversarial",
        defences.names(),
        "The loss that training minimizes: an objective, or a defense by its name in the "
        "literature. Defenses with a teacher are in keras-robust-distill.",
    )
    flags.DEFINE_list(
        "objective_arguments",
        [],
        "Arguments of the objective, such as --objective_arguments=beta=1",
    )
    flags.DEFINE_integer(
        "clean_epochs", 0, "Epochs of plain training before the first adversarial one.", 0
    )


def run(settings, *, output_dir, checkpoint_dir=None, data_dir=None):
    """Trains both models, evaluates them, and writes the results.

    Args:
        settings: dict of the flags on which the results depend.
        output_dir: str, the folder for the results.
        checkpoint_dir: str or `None`, the folder for checkpoints.
        data_dir: str or `None`, the folder of prepared data sets.

    Returns:
        dict from `"undefended"` and `"hardened"` to `RobustnessReport`.
    """
    dataset, threat_model = training.load(settings, data_dir)
    callbacks = {"undefended": [], "hardened": _defence(settings, dataset, threat_model)}
    # Only now, so that a setting that is refused leaves no trace in the folders.
    output_dir = training.prepare_folders(output_dir, checkpoint_dir, settings)
    trained = {}
    for name, chosen in callbacks.items():
        trained[name] = training.build(settings, dataset)
        training.fit(name, trained[name], dataset, settings, chosen, checkpoint_dir)
    reports = training.attack(trained, dataset, threat_model, settings)
    training.write("hardened", trained["hardened"], reports, dataset, output_dir)
    return reports


def _defence(settings, dataset, threat_model):
    chosen = defences.arguments(
        settings["objective"],
        settings["attack"],
        settings["num_steps"],
        settings["objective_arguments"],
    )
    clean_epochs = settings["clean_epochs"]
    return training.make_defence(
        settings, dataset, threat_model, clean_epochs=clean_epochs, **chosen
    )


def main(_):
    training.run_with_flags(run, _SETTINGS)


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
