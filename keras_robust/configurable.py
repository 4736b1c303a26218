"""Configs of objects whose constructor arguments are their attributes."""

import inspect

import keras
import numpy as np

# The most entries of an array that a message shows one by one.
_LONG = 8


class Configurable:
    """Base class with a config and a repr of the constructor arguments.

    A subclass keeps each argument in an attribute of the same name.
    """

    def get_config(self):
        return {name: to_config_value(value) for name, value in self._arguments().items()}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: from_config_value(value) for name, value in config.items()})

    def __repr__(self):
        arguments = ", ".join(
            f"{key}={short_repr(value)}" for key, value in self._arguments().items()
        )
        return f"{type(self).__name__}({arguments})"

    def _arguments(self):
        names = inspect.signature(type(self).__init__).parameters
        skipped = ("self", "args", "kwargs")
        return {name: getattr(self, name) for name in names if name not in skipped}


def short_repr(value):
    """Returns `repr(value)`, but only shape and range of long arrays and lists of numbers.

    Error messages use it to show the value that they received.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {short_repr(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (np.ndarray, np.generic)) or _is_long(value):
        return _array_repr(np.asarray(value))
    if isinstance(value, (list, tuple)):
        return _items_repr(value)
    return _tensor_repr(value) if keras.ops.is_tensor(value) else repr(value)


def _items_repr(value):
    items = ", ".join(map(short_repr, value))
    if isinstance(value, list):
        return f"[{items}]"
    return f"({items},)" if len(value) == 1 else f"({items})"


def _array_repr(array):
    if array.shape == ():
        # Without the name of the dtype, and with as few digits as tell the number apart.
        return str(array)
    if array.size <= _LONG:
        return repr(array)
    text = f"<array of shape {array.shape} and dtype {array.dtype}"
    is_ordered = array.dtype.kind in "iuf"
    return text + (f" from {array.min():g} to {array.max():g}>" if is_ordered else ">")


def _tensor_repr(value):
    try:
        return _array_repr(np.asarray(value))
    except (NotImplementedError, TypeError):
        # A tensor that is being traced has no value, and its repr is the name of a node.
        dtype = keras.backend.standardize_dtype(value.dtype)
        return f"<tensor of shape {tuple(value.shape)} and dtype {dtype}>"


def _is_long(value):
    """Returns whether a value is an array, or nested lists of numbers, with many entries."""
    if isinstance(value, (list, tuple)):
        leaves = keras.tree.flatten(value)
        are_numbers = all(isinstance(leaf, (int, float, np.generic)) for leaf in leaves)
        return are_numbers and len(leaves) > _LONG and _is_regular(value)
    return isinstance(value, np.ndarray) and value.size > _LONG


def _is_regular(value):
    try:
        return np.asarray(value).dtype != object
    except ValueError:
        return False


def required_arguments(cls):
    """Returns the names of the constructor arguments of a class that have no default."""
    return [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def to_config_value(value):
    """Returns an argument in a form that JSON can hold."""
    if isinstance(value, dict):
        return {key: to_config_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_config_value(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return keras.saving.serialize_keras_object(value) if hasattr(value, "get_config") else value


def fingerprint(value):
    """Returns a description of a value for comparison in a later process, in plain JSON types.

    It describes a value that is neither configurable nor plain, for example a model or a function,
    by its type alone.
    """
    if isinstance(value, (Configurable, keras.optimizers.schedules.LearningRateSchedule)):
        return {"class": type(value).__name__, **fingerprint(_settings_of(value))}
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value).tolist()
    if isinstance(value, dict):
        return {str(key): fingerprint(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fingerprint(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value if isinstance(value, (str, int, float, type(None))) else type(value).__name__


def _settings_of(value):
    """Returns the constructor arguments of an object, or `{}` if it does not provide them."""
    try:
        return value._arguments() if isinstance(value, Configurable) else value.get_config()
    except (AttributeError, NotImplementedError):
        return {}


def from_config_value(value):
    """Returns the argument that `to_config_value` turned into this value."""
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, dict):
        return {key: from_config_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_config_value(item) for item in value]
    return value
