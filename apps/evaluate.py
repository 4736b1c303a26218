"""Evaluates a trained classifier: attacks it and prints its robust accuracy.

    keras-robust-evaluate --model=runs/latest/model.keras
    keras-robust-evaluate --model=runs/latest/saved_model/1 --attacks=pgd
    keras-robust-evaluate --model=runs/latest/model.keras --sanity_check --checkpoint=state.npz
    keras-robust-evaluate --model=runs/latest/model.keras --certificates=crown
    keras-robust-evaluate --model=runs/latest/model.keras --shard=3/16 --output_dir=runs/shard_3
    keras-robust-evaluate --model=runs/latest/model.keras --workers=16

The program reads a .keras file or a SavedModel of keras-robust-export. It runs AutoAttack, or other
attacks by name, and writes the report as JSON and as an HTML page.
"""

import functools

from absl import flags
from rich.console import Console

import keras_robust as kr

from . import cli
from . import models
from . import shared_flags


def define_flags():
    """Defines the flags of this program."""
    shared_flags.define_data()
    shared_flags.define_threat_model()
    shared_flags.define_evaluation()
    flags.DEFINE_string("model", None, "A .keras file, or the folder of a SavedModel.")
    flags.DEFINE_list(
        "attacks",
        ["standard"],
        "standard, plus or rand for AutoAttack; black_box; pgd for PGD on two losses with "
        "--evaluation_steps and --evaluation_restarts; or names of attacks.",
    )
    flags.DEFINE_list(
        "certificates",
        None,
        "Proofs before the attacks, which then skip what is proved: crown, alpha_crown, interval, "
        "complete, linear or lipschitz, in the norm of the threat model.",
    )
    flags.DEFINE_bool("sanity_check", False, "Check first whether attacks on this model work.")
    flags.DEFINE_string(
        "checkpoint", None, "File for the state, from which the same command resumes after a kill."
    )
    flags.DEFINE_string(
        "shard",
        None,
        "3/16 evaluates every sixteenth example from the fourth on; merge the reports of all "
        "sixteen with RobustnessReport.merge.",
    )
    flags.DEFINE_integer(
        "workers",
        None,
        "Processes of one thread each that share the work, by Ray; --checkpoint is their folder.",
        lower_bound=1,
    )
    flags.DEFINE_string("address", None, "The Ray cluster for --workers. Default: this machine.")
    flags.DEFINE_string(
        "output_dir",
        None,
        "Folder for report.json and (with matplotlib) report.html and examples.png.",
    )
    flags.mark_flag_as_required("model")


def run(  # noqa: PLR0913
    model, dataset, threat_model, suite, *, output_dir, evaluate=kr.evaluate, **arguments
):
    """Evaluates a model, prints the table, writes and returns the report.

    Args:
        model: `keras.Model` or a callable that returns logits.
        dataset: `keras_robust.datasets.Dataset`.
        threat_model: `ThreatModel`.
        suite: list of attacks, or names.
        output_dir: str or `None`.
        evaluate: `kr.evaluate`, or a function that is called like it.
        **arguments: further arguments of `evaluate`.

    Returns:
        `RobustnessReport`.
    """
    folder = cli.make_folder(output_dir)
    report = evaluate(model, dataset.test, threat_model, suite, **arguments)
    Console().print(report)
    if folder is not None:
        report.save(folder / "report.json")
        # Page and plot need matplotlib, which is optional.
        try:
            report.save_html(folder / "report.html", class_names=dataset.label_names)
            report.plot(str(folder / "examples.png"))
        except ImportError as error:
            print(error)
        print(f"Written to {folder}")
    return report


def main(_):
    values = flags.FLAGS
    bounds = shared_flags.parse_bounds(values.bounds)
    model = models.load_for_attack(values.model)
    dataset = shared_flags.load_dataset(values.dataset, values.data_dir, bounds)
    if hasattr(model, "input_shape"):
        models.check_fit(model, dataset)
    threat_model = shared_flags.make_threat_model(
        values.threat_model, values.epsilon, values.dataset, bounds
    )
    if values.sanity_check:
        count = min(values.evaluation_examples or 128, 128)
        arguments = {"num_examples": count, "seed": values.seed}
        Console().print(kr.sanity_check(model, dataset.test, threat_model, **arguments))
    suite = []
    for name in values.attacks:
        is_pgd = name == "pgd"
        strength = (values.evaluation_steps, values.evaluation_restarts)
        suite += shared_flags.make_suite(*strength) if is_pgd else [name]
    load = functools.partial(models.load_for_attack, values.model)
    run(
        model if values.workers is None else load,
        dataset,
        threat_model,
        suite,
        output_dir=values.output_dir,
        num_examples=values.evaluation_examples,
        batch_size=values.batch_size,
        seed=values.seed,
        certificates=values.certificates,
        **_places(values),
    )


def _places(values):
    """Returns the arguments of `run` that say where the evaluation runs and keeps its state."""
    if values.workers is None:
        if values.address is not None:
            raise ValueError(
                "Expected --workers with --address, the cluster of the workers. "
                f"Received: --address={values.address}"
            )
        return {"checkpoint": values.checkpoint, "shard": values.shard}
    if values.shard is not None:
        raise ValueError(
            "Expected either --workers, which makes shards of its own, or --shard. "
            f"Received: --workers={values.workers} --shard={values.shard}"
        )
    arguments = {"workers": values.workers, "address": values.address}
    evaluate = functools.partial(kr.evaluation.distribute, **arguments)
    return {"evaluate": evaluate, "folder": values.checkpoint}


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
