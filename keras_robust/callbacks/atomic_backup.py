"""Backups of a training, from which `fit` continues after a kill to the same weights."""

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
from keras_robust.callbacks.callback_list import move_callback
from keras_robust.callbacks.robust_validation import RobustValidation
from keras_robust.configurable import fingerprint
from keras_robust.sealed import read_sealed
from keras_robust.sealed import sealed

_SCHEMA = "keras_robust.backup"
_VERSION = 3
_META = "meta"
# The attributes in which callbacks store a state from epoch to epoch.
_REMEMBERED = {
    AdvTrain: ("_epsilon_warmup",),
    **REMEMBERED,
    RobustValidation: ("_latest",),
}


class _State(typing.NamedTuple):
    """The state of a training between two epochs.

    Fields: `epoch`, the number of finished epochs; `values`, arrays; `training`, the arguments of
    `AdvTrain`, or `None`; `remembered`, the states of callbacks, by their names.
    """

    epoch: int
    values: list
    training: dict | None
    remembered: dict


@keras.saving.register_keras_serializable(package="keras_robust")
class AtomicBackup(keras.callbacks.Callback):
    """Saves the state of a training in one file, and continues from it after a kill.

    After every epoch, a new file with the weights, the optimizer and the seeds of random layers
    replaces the old one in one rename. A kill at any moment leaves a complete file. The same `fit`
    call then reaches the same weights as without the kill, bit for bit, provided that the data come
    in the same order: with `shuffle=False`, or in an order that depends on the epoch alone. The
    states of `ModelCheckpoint`, `EarlyStopping`, `ReduceLROnPlateau`, `SwapEMAWeights` and
    `RobustValidation` are saved too, so that the best epoch is the best of the whole training. This
    callback moves to the end of the list of callbacks.

    It replaces `keras.callbacks.BackupAndRestore`, which writes two files in place: a kill during
    the writing leaves an unreadable file, and a kill between the two repeats an epoch.
    `BackupAndRestore` also does not save the seeds of `Dropout` and augmentation, nor the states of
    callbacks. Neither of the two saves the states of `CollapseGuard` and of custom callbacks, and
    the objectives `Free` and `AdversarialPool` continue with an empty memory.

    The file contains the arguments of `AdvTrain`, and is refused if they differ. Models and
    functions among them, such as a teacher, are compared by type only. Data and loss may change.
    The file determines the learning rate and the warm-up: if a later `fit` has more epochs, epsilon
    continues from its last value.

    A file that was changed, that belongs to another training or that has NaN among the weights is
    refused before the model changes. Two trainings need two paths: with the same path, the last
    file written wins, and is complete. A kill during the writing leaves a hidden file that ends in
    `.partial`, which a later training deletes after a day.

    At the end of `fit` the file is deleted, unless `delete_checkpoint=False`.

    Args:
        path: str, the file, such as `"backup.npz"`; missing parent folders are created.
        delete_checkpoint: bool, whether to delete the file at the end of the training. If it is
            kept, the same `fit` call trains for no further epoch. Defaults to `True`.

    Raises:
        ValueError: in `fit`, for a model that is not built, for a file that cannot be written, and
            for a file that is not a backup, was changed, or belongs to another model, to other
            arguments of `AdvTrain` or to more epochs than `fit` has, or has NaN among the weights.

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
        self._callback_list = move_callback(self, inspect.currentframe().f_back, len)

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
        # Keras would create the variables of the optimizer in the first step, after the restore.
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self._training = _training_of(self._callback_list())
        # Fail now, and not after the first epoch.
        check_writable(self.path)
        if pathlib.Path(self.path).exists():
            self._restore()

    def on_epoch_end(self, epoch, logs=None):
        values = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        arrays = {f"variable_{index}": _to_numpy(value) for index, value in enumerate(values)}
        remembered = {}
        for name, callback, attributes in _remembering(self._callback_list()):
            state = {attribute: getattr(callback, attribute, None) for attribute in attributes}
            weights = state.pop("best_weights", None) or []
            arrays.update(
                (f"{name}_{index}", _to_numpy(value)) for index, value in enumerate(weights)
            )
            remembered[name] = {"state": state, "num_weights": len(weights)}
        meta = {
            "schema": _SCHEMA,
            "schema_version": _VERSION,
            "epoch": epoch + 1,
            "training": self._training,
            "callbacks": remembered,
        }
        # Callbacks store NumPy numbers, which JSON does not support.
        text = json.dumps(meta, default=float)
        write_arrays(self.path, sealed({_META: np.array(text), **arrays}))

    def on_train_end(self, logs=None):
        if self.delete_checkpoint:
            pathlib.Path(self.path).unlink(missing_ok=True)

    def epochs_done(self):
        """Returns the number of finished epochs in the file; 0 if there is no file."""
        return _read(self.path).epoch if pathlib.Path(self.path).exists() else 0

    def _refuse_another(self, training):
        """Raises ValueError if the file belongs to a training with another `AdvTrain`."""
        if training == self._training:
            return
        raise ValueError(
            "The backup belongs to another training. Delete the file, or use another path. "
            f"Received: {self.path}, from a training {_difference(training, self._training)}"
        )

    def _variables(self):
        """Returns all variables that the next step depends on, in a fixed order."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def _restore(self):
        state = _read(self.path)
        # Check everything before the first assignment: a refused file must not change the model.
        self._check(state)
        epoch, values, _, remembered = state
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)
        for name, callback, attributes in _remembering(self._callback_list()):
            for attribute in attributes if name in remembered else ():
                setattr(callback, attribute, remembered[name].get(attribute))
        # Set the first epoch of `fit`, as Keras's own callback does.
        # If `EarlyStopping` ended the training before the kill, it must not go on.
        is_over = any(map(_has_stopped, self._callback_list()))
        params = self.params or {}
        start_fit_at(self.model, params.get("epochs", epoch) if is_over else epoch)
        if params.get("verbose"):
            print(f"Resuming after epoch {epoch}, from {self.path}")  # noqa: T201

    def _check(self, state):
        """Raises ValueError for a state that this training cannot continue; changes nothing."""
        self._refuse_another(state.training)
        self._check_shapes(state.values)
        self._check_epochs(state.epoch)
        self._check_weights(state.values)

    def _check_shapes(self, values):
        variables = self._variables()
        wanted = [tuple(variable.shape) for variable in variables]
        if wanted != [value.shape for value in values]:
            raise ValueError(
                "The backup belongs to another model or optimizer. Delete the file, or use "
                f"another path. Received: {self.path} with {len(values)} arrays for "
                f"{len(variables)} variables, or of other shapes"
            )

    def _check_epochs(self, epoch):
        epochs = (self.params or {}).get("epochs") or epoch
        if epochs < epoch:
            raise ValueError(
                f"The backup is from epoch {epoch}, after the last epoch of `fit`, which would "
                "delete the file. Use more epochs, or delete the file yourself. Received: "
                f"{self.path} and epochs={epochs}"
            )

    def _check_weights(self, values):
        weights = {id(weight) for weight in self.model.weights}
        for variable, value in zip(self._variables(), values, strict=True):
            if id(variable) in weights and np.isnan(value).any():
                raise ValueError(
                    "The backup has weights that are NaN, and no training can continue from "
                    "them. Delete the file, and train with a smaller learning rate. Received: "
                    f"{self.path} with NaN in {variable.path}"
                )


def _has_stopped(callback):
    """Returns whether a callback has stopped the training, and would stop it again."""
    is_stopping = isinstance(callback, keras.callbacks.EarlyStopping)
    return is_stopping and callback.stopped_epoch > 0 and callback.wait >= callback.patience


def _training_of(callbacks):
    """Returns the arguments of the `AdvTrain` among the callbacks, as JSON, or `None`."""
    for one in callbacks:
        if isinstance(one, AdvTrain):
            # A subclass may have further arguments.
            names = inspect.signature(type(one)).parameters
            settings = {name: getattr(one, name, None) for name in names}
            text = json.dumps(fingerprint({"class": type(one).__name__, **settings}), default=float)
            return json.loads(text)
    return None


def _difference(training, asked):
    """Returns the differences between two trainings, as text."""
    if training is None or asked is None:
        return "without AdvTrain" if training is None else "with AdvTrain, which this `fit` lacks"
    names = [name for name in {**training, **asked} if training.get(name) != asked.get(name)]
    pairs = (f"{name}={training.get(name)}, not {asked.get(name)}" for name in names)
    return "with " + ", ".join(pairs)


def _remembering(callbacks):
    """Yields the name, the callback and the attributes to save, for each callback with a state.

    The names are the same in the next `fit`.
    """
    counts = collections.Counter()
    for callback in callbacks:
        for cls, attributes in _REMEMBERED.items():
            if isinstance(callback, cls):
                name = f"{cls.__name__}_{getattr(callback, 'monitor', '')}"
                counts[name] += 1
                yield f"{name}_{counts[name]}", callback, attributes


def _to_numpy(value):
    """Returns an array that NumPy can write without pickling.

    Dtypes such as bfloat16 become float32, which represents them exactly.
    """
    return value if value.dtype.kind in "biuf" else value.astype("float32")


def _read(path):
    """Returns the `_State` in a file, and raises ValueError if it is not a backup."""
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
    # A damaged file may raise any error.
    except Exception as error:
        raise ValueError(
            f"Expected a backup of AtomicBackup at {path}. Delete the file, or use another path. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
