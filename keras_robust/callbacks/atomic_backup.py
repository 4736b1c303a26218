"""The callback from which a killed training goes on, to the same weights."""

import collections
import inspect
import json
import os
import pathlib
import typing

import keras
import numpy as np

from keras_robust.atomic import check_writable
from keras_robust.atomic import write_arrays
from keras_robust.backend.keras_internals import REMEMBERED
from keras_robust.backend.keras_internals import start_fit_at
from keras_robust.callbacks.adv_train import AdvTrain
from keras_robust.callbacks.callback_list import move
from keras_robust.callbacks.robust_validation import RobustValidation
from keras_robust.configurable import fingerprint
from keras_robust.sealed import read_sealed
from keras_robust.sealed import sealed

_SCHEMA = "keras_robust.backup"
_VERSION = 3
_META = "meta"
# What callbacks remember from epoch to epoch.
_REMEMBERED = {
    AdvTrain: ("_epsilon_warmup",),
    **REMEMBERED,
    RobustValidation: ("_latest",),
}


class _State(typing.NamedTuple):
    """A training between two epochs.

    Fields: `epoch`, how many are through; `values`, arrays; `training`, what it is for, or `None`;
    `remembered`, by name of a callback what it remembers.
    """

    epoch: int
    values: list
    training: dict | None
    remembered: dict


@keras.saving.register_keras_serializable(package="keras_robust")
class AtomicBackup(keras.callbacks.Callback):
    """Keeps the state of a training in one file, and goes on from there after a kill.

    After every epoch the weights, the optimizer and the seeds of random layers replace the file in
    one rename. A kill at any moment leaves the state before or the state after, never half of one,
    and the same `fit` call goes on to the weights that it would have reached, bit for bit, as long
    as the data come in the same order: `shuffle=False`, or an order that follows from the epoch.
    So do `ModelCheckpoint`, `EarlyStopping`, `ReduceLROnPlateau`, `SwapEMAWeights` and
    `RobustValidation` among the callbacks: the best epoch is that of the whole training. It stands
    behind the other callbacks, wherever it was put.

    It does what `keras.callbacks.BackupAndRestore` is for. That writes two files in place: a kill
    while it writes leaves a file that cannot be read, and a kill between the two repeats an epoch;
    and it leaves out the seeds of `Dropout` and augmentation, and all that callbacks remember.
    Kept by neither is what `CollapseGuard` and callbacks of your own remember; and an objective
    that does, `Free` or `AdversarialPool`, starts with an empty memory.

    The file knows the arguments of `AdvTrain`, and is refused with others; models and functions
    among them, such as a teacher, are told apart by their type alone. Data and loss may change. The
    learning rate is that of the file, and so is the warm-up: with more epochs than at first,
    epsilon goes on from where it was.

    A file that has changed since it was written, is of another training or has weights that are NaN
    is refused before anything of the model changes. Two trainings need two paths: with one path the
    last to write wins, and the file stays whole. A kill while it writes leaves a hidden file with
    the ending `.partial` behind, which a later training deletes after a day.

    When `fit` is through, the file is deleted, unless `delete_checkpoint=False`.

    Args:
        path: str, the file, such as `"backup.npz"`; folders above it are made.
        delete_checkpoint: bool, whether to delete the file when the training is through. Kept, it
            makes the same call a training of no epochs. Defaults to `True`.

    Raises:
        ValueError: in `fit`, for a model that is not built; for a file that cannot be written; and
            for one that is none of its own or was changed, of another model, of a training with
            other arguments of `AdvTrain`, of more epochs than `fit` is to do, or with NaN among
            the weights.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> path = tempfile.mkdtemp() + "/backup.npz"
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> for epochs in (2, 3):
    ...     backup = kr.callbacks.AtomicBackup(path, delete_checkpoint=False)
    ...     history = model.fit(np.eye(2), np.ones(2), epochs=epochs, verbose=0, callbacks=[backup])
    ...     print(history.epoch)
    [0, 1]
    [2]
    """

    def __init__(self, path, *, delete_checkpoint=True):
        super().__init__()
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(
                "Argument `path` must be the path of a file, such as 'backup.npz'. "
                f"Received: path={path!r}"
            )
        self.path = str(path)
        self.delete_checkpoint = delete_checkpoint
        self._callback_list = list
        self._training = None

    def set_model(self, model):
        super().set_model(model)
        self._callback_list = move(self, inspect.currentframe().f_back, len)

    def get_config(self):
        return {"path": self.path, "delete_checkpoint": self.delete_checkpoint}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def on_train_begin(self, logs=None):
        model = self.model
        if not model.built:
            raise ValueError(
                "AtomicBackup needs the weights before the first batch: give the model an "
                f"`Input`, or call it on a batch. Received: {model.name}, which is not built"
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self._training = _training_of(self._callback_list())
        check_writable(self.path)
        if pathlib.Path(self.path).exists():
            self._restore()

    def on_epoch_end(self, epoch, logs=None):
        values = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        arrays = {f"variable_{index}": _plain(value) for index, value in enumerate(values)}
        remembered = {}
        for name, callback, attributes in _remembering(self._callback_list()):
            state = {attribute: getattr(callback, attribute, None) for attribute in attributes}
            weights = state.pop("best_weights", None) or []
            arrays.update((f"{name}_{index}", _plain(value)) for index, value in enumerate(weights))
            remembered[name] = {"state": state, "num_weights": len(weights)}
        meta = {
            "schema": _SCHEMA,
            "schema_version": _VERSION,
            "epoch": epoch + 1,
            "training": self._training,
            "callbacks": remembered,
        }
        text = json.dumps(meta, default=float)
        write_arrays(self.path, sealed({_META: np.array(text), **arrays}))

    def on_train_end(self, logs=None):
        if self.delete_checkpoint:
            pathlib.Path(self.path).unlink(missing_ok=True)

    def epochs_done(self):
        """Returns how many epochs the file has behind it; 0 if there is none."""
        return _read(self.path).epoch if pathlib.Path(self.path).exists() else 0

    def _refuse_another(self, training):
        """Says if the file is of a training with another `AdvTrain`."""
        if training == self._training:
            return
        raise ValueError(
            "The backup is of another training: delete the file, or give another path. Received: "
            f"{self.path}, of a training {_difference(training, self._training)}"
        )

    def _variables(self):
        """Everything that the next step depends on, in an order that the model decides."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def _restore(self):
        state = _read(self.path)
        self._check(state)
        epoch, values, _, remembered = state
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)
        for name, callback, attributes in _remembering(self._callback_list()):
            for attribute in attributes if name in remembered else ():
                setattr(callback, attribute, remembered[name].get(attribute))
        # Where `fit` starts to count; Keras's own callback sets it too.
        is_over = any(map(_has_stopped, self._callback_list()))
        params = self.params or {}
        start_fit_at(self.model, params.get("epochs", epoch) if is_over else epoch)
        if params.get("verbose"):
            print(f"Resuming after epoch {epoch}, from {self.path}")  # noqa: T201

    def _check(self, state):
        """Refuses a state that this training cannot go on from; changes nothing."""
        epoch, values, training, _ = state
        self._refuse_another(training)
        variables = self._variables()
        wanted = [tuple(variable.shape) for variable in variables]
        if wanted != [value.shape for value in values]:
            raise ValueError(
                "The backup is of another model or optimizer: delete the file, or give another "
                f"path. Received: {self.path} with {len(values)} arrays for {len(variables)} "
                "variables, or of other shapes"
            )
        epochs = (self.params or {}).get("epochs") or epoch
        if epochs < epoch:
            raise ValueError(
                f"The backup has {epoch} epochs behind it, more than `fit` is to do, and would be "
                "deleted at its end. Use more epochs, or delete it yourself. "
                f"Received: {self.path} and epochs={epochs}"
            )
        weights = {id(weight) for weight in self.model.weights}
        for variable, value in zip(variables, values, strict=True):
            if id(variable) in weights and np.isnan(value).any():
                raise ValueError(
                    "The backup has weights that are NaN, from which no training goes on: delete "
                    "the file, and train with a smaller learning rate. "
                    f"Received: {self.path} with NaN in {variable.path}"
                )


def _has_stopped(callback):
    """Whether a callback has stopped the training, and would again."""
    is_stopping = isinstance(callback, keras.callbacks.EarlyStopping)
    return is_stopping and callback.stopped_epoch > 0 and callback.wait >= callback.patience


def _training_of(callbacks):
    """Returns what a training is for, the arguments of its `AdvTrain`, as JSON gives them back."""
    for one in callbacks:
        if isinstance(one, AdvTrain):
            names = inspect.signature(type(one)).parameters
            settings = {name: getattr(one, name, None) for name in names}
            text = json.dumps(fingerprint({"class": type(one).__name__, **settings}), default=float)
            return json.loads(text)
    return None


def _difference(training, asked):
    """Returns what tells a training from the one that is asked for."""
    if training is None or asked is None:
        return "without AdvTrain" if training is None else "with AdvTrain, which is not among these"
    names = [name for name in {**training, **asked} if training.get(name) != asked.get(name)]
    pairs = (f"{name}={training.get(name)}, not {asked.get(name)}" for name in names)
    return "with " + ", ".join(pairs)


def _remembering(callbacks):
    """Yields name, callback and the attributes to keep; the next `fit` has the same names."""
    counts = collections.Counter()
    for callback in callbacks:
        for cls, attributes in _REMEMBERED.items():
            if isinstance(callback, cls):
                name = f"{cls.__name__}_{getattr(callback, 'monitor', '')}"
                counts[name] += 1
                yield f"{name}_{counts[name]}", callback, attributes


def _plain(value):
    """Returns what NumPy writes without objects: bfloat16 and the like as float32, exactly."""
    return value if value.dtype.kind in "biuf" else value.astype("float32")


def _read(path):
    """Returns the `_State` in a file."""
    try:
        arrays = read_sealed(path)
        meta = json.loads(str(arrays[_META]))
        if (meta["schema"], meta["schema_version"]) != (_SCHEMA, _VERSION):
            raise ValueError(f"schema {meta['schema']!r}, version {meta['schema_version']!r}")
        count = sum(name.startswith("variable_") for name in arrays)
        values = [arrays[f"variable_{index}"] for index in range(count)]
        remembered = {}
        for name, one in meta["callbacks"].items():
            weights = [arrays[f"{name}_{index}"] for index in range(one["num_weights"])]
            remembered[name] = {**one["state"], "best_weights": weights or None}
        if not isinstance(meta["epoch"], int) or meta["epoch"] < 1:
            raise ValueError(f"epoch {meta['epoch']!r}")
        return _State(meta["epoch"], values, meta["training"], remembered)
    except Exception as error:
        raise ValueError(
            f"Expected a backup of AtomicBackup at {path}: delete the file, or give another path. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
