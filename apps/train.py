"""Trains a classifier to resist adversarial examples, next to an undefended twin.

    python -m apps.train
    python -m apps.train --dataset=fashion_mnist --data_dir=DIR --epochs=10 --batch_size=128

The first takes about a minute on two CPU cores. Writes to --output_dir: model.keras, a SavedModel
for production servers, report.json, the report of the twin, and, with matplotlib, examples of both.
Replaces what an earlier run wrote there, but never a SavedModel: that gets the next number.
"""

import json
import pathlib
import sys

import keras
import numpy as np
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
    flags.DEFINE_string(
        "model",
        models.SMALL_CNN,
        f"'{models.SMALL_CNN}', or the path of a .keras file of your own to harden.",
    )
    flags.DEFINE_integer("epochs", 30, "Epochs of each of the two trainings.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 2e-3, "Learning rate of Adam.", lower_bound=1e-9)
    flags.DEFINE_enum(
        "attack", "pgd", _names(kr.attacks.ALL), "Attack that makes the training examples."
    )
    flags.DEFINE_integer(
        "num_steps",
        None,
        "Gradient steps of the training attack. Default: what is usual for the attack.",
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "objective", "adversarial", _names(kr.objectives.ALL), "What training minimises."
    )
    flags.DEFINE_string(
        "warmup",
        "20%",
        "Part of the training over which epsilon grows from 0: a percentage, or optimizer steps.",
    )
    flags.DEFINE_string(
        "checkpoint_dir", None, "Folder for checkpoints; the same command goes on after a kill."
    )
    flags.DEFINE_string("output_dir", "runs/latest", "Folder for the results.")


def _names(classes):
    return sorted(cls.__name__.lower() for cls in classes)


class ShuffledBatches(keras.utils.PyDataset):
    """Batches in an order that depends on the seed and the epoch alone.

    The epoch is read off the optimizer, so that a training that goes on after a kill sees the order
    that it would have seen.

    Args:
        x, y: arrays.
        batch_size: int.
        seed: int.
        optimizer: the optimizer of the model that is trained.
    """

    def __init__(self, x, y, *, batch_size, seed, optimizer):
        super().__init__()
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.seed = seed
        self.optimizer = optimizer
        self.order = np.arange(len(x))

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.x[rows], self.y[rows]

    def on_epoch_begin(self):
        epoch = int(keras.ops.convert_to_numpy(self.optimizer.iterations)) // len(self)
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.x))


def train(model, dataset, *, epochs, batch_size, seed, callbacks=(), checkpoint_dir=None):
    """Fits a compiled model, resuming from `checkpoint_dir` if a checkpoint is there."""
    callbacks = list(callbacks)
    if checkpoint_dir is not None:
        callbacks.append(keras.callbacks.BackupAndRestore(checkpoint_dir, delete_checkpoint=False))
        note = pathlib.Path(checkpoint_dir) / "training_metadata.json"
        if note.exists():
            done = json.loads(note.read_text(encoding="utf-8"))["epoch"]
            print(f"Resuming after epoch {done}, from {checkpoint_dir}", flush=True)
    batches = ShuffledBatches(
        *dataset.train, batch_size=batch_size, seed=seed, optimizer=model.optimizer
    )
    return model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        validation_data=dataset.validation,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,
    )


def run(settings, *, output_dir, checkpoint_dir=None, data_dir=None):
    """Trains the twins, evaluates both, writes the results.

    Args:
        settings: dict of the flags that decide the numbers.
        output_dir: str, the folder for the results.
        checkpoint_dir: str or `None`, the folder for checkpoints.
        data_dir: str or `None`, the folder of prepared data sets.

    Returns:
        dict from `"undefended"` and `"hardened"` to `RobustnessReport`.
    """
    dataset = shared_flags.load_dataset(settings["dataset"], data_dir)
    threat_model = shared_flags.make_threat_model(
        settings["threat_model"], settings["epsilon"], settings["dataset"]
    )
    callbacks = {"undefended": [], "hardened": _defence(settings, dataset, threat_model)}
    output_dir = _writable(output_dir)
    if (output_dir / "model.keras").exists():
        print(f"Note: the results of an earlier run in {output_dir} will be replaced.", flush=True)
    if checkpoint_dir is not None:
        _claim(_writable(checkpoint_dir), settings)
    reports, trained = {}, {}
    for name, chosen in callbacks.items():
        keras.utils.set_random_seed(settings["seed"])
        model = models.build(settings["model"], dataset, settings["learning_rate"])
        print(f"Training the {name} model:", flush=True)
        train(
            model,
            dataset,
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            seed=settings["seed"],
            callbacks=chosen,
            checkpoint_dir=None if checkpoint_dir is None else f"{checkpoint_dir}/{name}",
        )
        trained[name] = model
    for name, model in trained.items():
        print(f"Attacking the {name} model:", flush=True)
        reports[name] = kr.evaluate(
            model,
            dataset.test,
            threat_model,
            shared_flags.make_suite(settings["evaluation_steps"], settings["evaluation_restarts"]),
            num_examples=settings["evaluation_examples"],
            seed=settings["seed"],
            verbose=sys.stdout.isatty(),
        )
    _write(trained["hardened"], reports, dataset, output_dir)
    return reports


def _defence(settings, dataset, threat_model):
    attack = kr.attacks.get(settings["attack"])
    if settings["num_steps"] is not None:
        if "num_steps" not in attack.get_config():
            raise ValueError(
                "This attack takes a fixed number of steps. "
                f"Received: --attack={settings['attack']} --num_steps={settings['num_steps']}"
            )
        attack = attack.clone(num_steps=settings["num_steps"])
    warmup = settings["warmup"]
    adv_train = kr.AdvTrain(
        threat_model,
        attack=attack,
        objective=settings["objective"],
        warmup=int(warmup) if warmup.isdigit() else warmup,
        seed=settings["seed"],
    )
    validation = kr.RobustValidation(dataset.validation, threat_model, num_examples=1000)
    return [adv_train, validation]


def _writable(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()
    return folder


def _claim(folder, settings):
    """Notes the settings in a checkpoint folder, or refuses one with other settings."""
    path = folder / "settings.json"
    if path.exists():
        other = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in settings if other.get(key) != settings[key])
        if changed:
            raise ValueError(
                "The checkpoints are of a training with other settings: give another "
                f"--checkpoint_dir, or delete it. Received: --checkpoint_dir={folder}, where "
                + ", ".join(f"--{key} was {other.get(key)}" for key in changed)
            )
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write(model, reports, dataset, output_dir):
    """Prints the table and writes model, SavedModel, reports and picture."""
    Console().print(kr.evaluation.compare(reports))
    versions = output_dir / "saved_model"
    taken = [int(p.name) for p in versions.glob("*") if p.name.isdigit()]
    saved_model = versions / str(max(taken, default=0) + 1)
    model.save(output_dir / "model.keras")
    kr.export_saved_model(
        model, saved_model, report=reports["hardened"], label_names=dataset.label_names
    )
    for name, path in (("hardened", "report.json"), ("undefended", "report_undefended.json")):
        reports[name].save(output_dir / path)
    written = ["model.keras", str(saved_model.relative_to(output_dir))]
    written += ["report.json", "report_undefended.json"]
    try:
        for name, path in (("hardened", "examples.png"), ("undefended", "examples_undefended.png")):
            reports[name].plot(str(output_dir / path))
            written.append(path)
    except ImportError as error:
        print(error)
    print(f"Written to {output_dir}: {', '.join(written)}")


def main(_):
    names = (
        "dataset model epochs batch_size learning_rate seed threat_model epsilon attack num_steps "
        "objective warmup evaluation_steps evaluation_restarts evaluation_examples"
    )
    run(
        {name: flags.FLAGS[name].value for name in names.split()},
        output_dir=flags.FLAGS.output_dir,
        checkpoint_dir=flags.FLAGS.checkpoint_dir,
        data_dir=flags.FLAGS.data_dir,
    )


def run_main():
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run_main()
