"""Processes that are killed at a chosen moment: in a batch, at a file operation, in a write.

A task is a dict with `work`, the name of a function below; `folder`, all that it may write to; and
what kills it, if anything does:

- `batch`: int, the number of the training batch after which it is killed (SIGKILL);
- `event`: int, the number of the file operation (open, rename, remove, mkdir) on something in the
  folder right before which it is killed (SIGKILL), or the name of one, such as "os.rename";
- `bytes`: int, the size of a file in writing at which it is killed (SIGXFSZ): anywhere, also in
  code that is not Python.
"""

import os
import pathlib
import resource
import signal
import sys

import keras
import numpy as np

import keras_robust as kr
from tests.support import backends
from tests.support import devices
from tests.support import fork_server
from tests.support import linear_fit
from tests.support import reports

_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
_PIXELS = np.random.default_rng(2).uniform(size=(20, 4)).astype("float32")
_LABELS = np.random.default_rng(3).integers(0, 3, size=20)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


class _Killer(keras.callbacks.Callback):
    """Kills the process after a batch, counted from the first one of all epochs."""

    def __init__(self, batch):
        super().__init__()
        self.batch, self.count = batch, 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.batch:
            _die()


def train(folder, batch=None):
    """Trains for four epochs of three batches with a backup, and writes the weights."""
    _train(_network(), folder, batch)


def train_replicas(folder, batch=None):
    """The same on two devices."""
    devices.split(2)
    with devices.mirrored(2).scope():
        model = _network()
    _train(model, folder, batch)


def _train(model, folder, batch):
    model.fit(
        *linear_fit.data(),
        batch_size=linear_fit.BATCH_SIZE,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[
            kr.AdvTrain(kr.Linf(0.1), attack=kr.attacks.PGD(num_steps=1), warmup=8),
            kr.callbacks.AtomicBackup(f"{folder}/backup.npz"),
            _Killer(batch),
        ],
    )
    np.savez(f"{folder}/weights.npz", *model.get_weights())


def evaluate(folder, batch=None):
    """Evaluates with a checkpoint that is written after every batch, and saves the report."""
    del batch
    kr.evaluation.checkpoint.SECONDS = 0.0
    attacks = [kr.attacks.PGD(num_steps=2), kr.attacks.Square(num_queries=4)]
    report = kr.evaluate(
        _network(),
        (_PIXELS, _LABELS),
        kr.Linf(0.1),
        attacks,
        batch_size=8,
        minimum_norm=None,
        checkpoint=f"{folder}/state.npz",
    )
    np.savez(f"{folder}/x_adv.npz", report.x_adv)
    report.save(f"{folder}/report.json")


def export(folder, batch=None):
    """Exports a model with a report."""
    del batch
    report = reports.make()
    kr.export_saved_model(_network(), f"{folder}/served/1", report=report)


def save(folder, batch=None):
    """Writes a Keras file, which Keras does in place."""
    del batch
    _network().save(f"{folder}/model.keras")


def _network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return linear_fit.make_model(layers, optimizer=keras.optimizers.Adam(0.05))


def _kill_at_event(number, folder):
    """Kills at the event with a number, or at the first one with a name."""
    count = [0]

    def watch(name, arguments):
        if name not in _EVENTS or not str(arguments[0]).startswith(folder):
            return
        # Reading is no moment of interest.
        if name == "open" and isinstance(arguments[1], str) and arguments[1].startswith("r"):
            return
        count[0] += 1
        if number in (count[0], name):
            _die()

    sys.addaudithook(watch)


def _kill_in_write(size):
    # Python ignores the signal, and would see an error that it could clean up after.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _run(task):
    """Does one task in this process."""
    backends.optimize_less()
    folder = task["folder"]
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    if task.get("event"):
        _kill_at_event(task["event"], folder)
    if task.get("bytes") is not None:
        _kill_in_write(task["bytes"])
    globals()[task["work"]](folder, task.get("batch"))


def run_all(tasks):
    """Runs tasks, each in a process of its own, and returns how each ended: 0, or the signal."""
    done = [fork_server.call(_run, {**task, "folder": str(task["folder"])}) for task in tasks]
    for one in done:
        if one.code > 0:
            raise RuntimeError(one.stderr)
    return [one.code for one in done]
