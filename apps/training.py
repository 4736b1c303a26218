"""Parts of the training programs: data order, resuming after a kill, and results."""

import json
import sys

import keras
import numpy as np
from absl import flags
from rich.console import Console

import keras_robust as kr
from keras_robust.atomic import write_text

from . import cli
from . import models
from . import shared_flags


class ShuffledBatches(keras.utils.PyDataset):
    """Batches in an order that depends on the seed and the epoch alone.

    The optimizer knows the epoch, so a training that resumes after a kill continues with the same
    order.

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
        # On JAX this is an int32, which may have overflowed.
        steps = int(keras.ops.convert_to_numpy(self.optimizer.iterations)) % 2**32
        epoch = steps // len(self)
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.x))


def train(model, dataset, *, epochs, batch_size, seed, callbacks=(), checkpoint_dir=None):
    """Fits a compiled model, and resumes from a checkpoint in `checkpoint_dir` if there is one."""
    callbacks = list(callbacks)
    if checkpoint_dir is not None:
        path = f"{checkpoint_dir}/backup.npz"
        # Keep the backup, so that the same command does not repeat a finished training.
        callbacks.append(kr.callbacks.AtomicBackup(path, delete_checkpoint=False))
    batches = ShuffledBatches(
        *dataset.train, batch_size=batch_size, seed=seed, optimizer=model.optimizer
    )
    return model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        validation_data=dataset.validation,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,  # A progress bar would fill a log file.
    )


def run_with_flags(run, names):
    """Calls `run` of a program with the values of the flags.

    Args:
        run: function `(settings, *, output_dir, checkpoint_dir, data_dir)`.
        names: str, the flags on which the results depend, separated by spaces.
    """
    run(
        {name: flags.FLAGS[name].value for name in names.split()},
        output_dir=flags.FLAGS.output_dir,
        checkpoint_dir=flags.FLAGS.checkpoint_dir,
        data_dir=flags.FLAGS.data_dir,
    )


def load(settings, data_dir):
    """Returns the data set and the threat model of the settings.

    Args:
        settings: dict of the flags on which the results depend.
        data_dir: str or `None`, the folder of prepared data sets.
    """
    name, bounds = settings["dataset"], shared_flags.parse_bounds(settings["bounds"])
    threat_model = shared_flags.make_threat_model(
        settings["threat_model"], settings["epsilon"], name, bounds
    )
    return shared_flags.load_dataset(name, data_dir, bounds), threat_model


def build(settings, dataset):
    """Returns the compiled model of the settings, with the same weights at every call."""
    # The undefended twin must start from the same weights, or the comparison means little.
    keras.utils.set_random_seed(settings["seed"])
    bounds = shared_flags.parse_bounds(settings["bounds"])
    return models.build(settings["model"], dataset, settings["learning_rate"], bounds)


def fit(name, model, dataset, settings, callbacks, checkpoint_dir):
    """Prints which model is trained, and trains it with the settings.

    Args:
        name: str, the name of the model and of its folder in `checkpoint_dir`.
        model: compiled `keras.Model`.
        dataset: `keras_robust.datasets.Dataset`.
        settings: dict of the flags on which the results depend.
        callbacks: list of callbacks.
        checkpoint_dir: str or `None`, the folder for checkpoints.
    """
    print(f"Training the {name} model:", flush=True)
    train(
        model,
        dataset,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        callbacks=callbacks,
        checkpoint_dir=None if checkpoint_dir is None else f"{checkpoint_dir}/{name}",
    )


def attacks():
    """Returns the classes of attacks that can train under the threat models of the programs.

    `AutoAttack` needs a data set, `Transfer` a surrogate model, and `JSMA` and `OnePixel` need the
    threat model `L0`, so they are left out.
    """
    others = (kr.attacks.AutoAttack, kr.attacks.JSMA, kr.attacks.OnePixel, kr.attacks.Transfer)
    return [cls for cls in kr.attacks.ALL if cls not in others]


def make_attack(name, num_steps):
    """Returns the training attack with `num_steps` steps, or its default number for `None`."""
    attack = kr.attacks.get(name)
    if num_steps is None:
        return attack
    if "num_steps" not in attack.get_config():
        raise ValueError(
            "This attack has a fixed number of steps: leave --num_steps out. "
            f"Received: --attack={name} --num_steps={num_steps}"
        )
    return attack.clone(num_steps=num_steps)


def parse_warmup(text):
    """Returns the argument `warmup` of `AdvTrain`: an int for a text of digits, else the text."""
    return int(text) if text.isdigit() else text


def make_defence(settings, dataset, threat_model, **arguments):
    """Returns the callbacks `AdvTrain`, with further arguments, and `RobustValidation`."""
    adv_train = kr.AdvTrain(
        threat_model,
        warmup=parse_warmup(settings["warmup"]),
        attack_dtype=settings["attack_dtype"],
        seed=settings["seed"],
        **arguments,
    )
    return [adv_train, kr.RobustValidation(dataset.validation, threat_model, num_examples=1000)]


def prepare_folders(output_dir, checkpoint_dir, settings):
    """Makes the folders, and returns the path of the folder for results.

    Args:
        output_dir: str, the folder for the results.
        checkpoint_dir: str or `None`, the folder for checkpoints.
        settings: dict of the flags on which the results depend.

    Raises:
        ValueError: if the checkpoints are from a training with other settings.
    """
    output_dir = cli.make_folder(output_dir)
    if (output_dir / "model.keras").exists():
        print(f"Note: the results of an earlier run in {output_dir} will be replaced.", flush=True)
    if checkpoint_dir is not None:
        _claim(cli.make_folder(checkpoint_dir), settings)
    return output_dir


def attack(trained, dataset, threat_model, settings):
    """Attacks the models in a dict by name, and returns a dict of their reports by name."""
    reports = {}
    for name, model in trained.items():
        print(f"Attacking the {name} model:", flush=True)
        reports[name] = kr.evaluate(
            model,
            dataset.test,
            threat_model,
            shared_flags.make_suite(settings["evaluation_steps"], settings["evaluation_restarts"]),
            num_examples=settings["evaluation_examples"],
            minimum_norm=None,
            seed=settings["seed"],
        )
    return reports


def write(name, model, reports, dataset, output_dir):
    """Prints the table of all reports, and writes a model, its SavedModel, reports and plots.

    Args:
        name: str, the key of the report of `model`. The files of other reports contain their keys.
        model: `keras.Model`.
        reports: dict from names to `RobustnessReport`.
        dataset: `keras_robust.datasets.Dataset`.
        output_dir: `pathlib.Path`.
    """
    Console().print(kr.evaluation.compare(reports))
    versions = output_dir / "saved_model"
    # A server may hold the earlier versions, which therefore never change.
    taken = [int(p.name) for p in versions.glob("*") if p.name.isdigit()]
    saved_model = versions / str(max(taken, default=0) + 1)
    model.save(output_dir / "model.keras")
    kr.export_saved_model(model, saved_model, report=reports[name], label_names=dataset.label_names)
    written = ["model.keras", str(saved_model.relative_to(output_dir))]
    suffixes = {name: "", **{other: f"_{other}" for other in reports if other != name}}
    for key, suffix in suffixes.items():
        reports[key].save(output_dir / f"report{suffix}.json")
        written.append(f"report{suffix}.json")
    # Plots need matplotlib, which is optional.
    try:
        for key, suffix in suffixes.items():
            reports[key].plot(str(output_dir / f"examples{suffix}.png"))
            written.append(f"examples{suffix}.png")
    except ImportError as error:
        print(error)
    print(f"Written to {output_dir}: {', '.join(written)}")


def _claim(folder, settings):
    """Writes the settings to a checkpoint folder. Raises ValueError if it has other settings."""
    path = folder / "settings.json"
    if path.exists():
        other = _read_settings(path)
        changed = sorted(key for key in settings if other.get(key) != settings[key])
        if changed:
            raise ValueError(
                "The checkpoints are from a training with other settings: pass another "
                f"--checkpoint_dir, or delete it. Received: --checkpoint_dir={folder}, where "
                + ", ".join(f"--{key} was {other.get(key)}" for key in changed)
            )
    write_text(path, json.dumps(settings, indent=2) + "\n")


def _read_settings(path):
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"a {type(settings).__name__}")
    except ValueError as error:
        raise ValueError(
            f"Expected the settings of a training in {path}: pass another --checkpoint_dir, or "
            f"delete it. Received: {error}"
        ) from error
    return settings
