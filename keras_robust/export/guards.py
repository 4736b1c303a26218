"""Which guard stands in front of which input."""

import warnings

import keras

from keras_robust import threat_models
from keras_robust.backend.keras_internals import input_tensors_of
from keras_robust.backend.keras_internals import layers_of
from keras_robust.layers import InputGuard
from keras_robust.layers import RandomizedSmoothing


def choose_guards(model, inputs, guard, report):
    """Returns an `InputGuard` or `None` for each input of a model.

    Integers and strings get none: they are categories, and cannot be NaN.

    Args:
        model: the model; if there is an `InputGuard` in it, `"auto"` adds no other, unless noise is
            added in front of that one.
        inputs: `Inputs` of the model.
        guard: `"auto"`, for the bounds in the threat model of the report, or without a report no
            bounds; an `InputGuard` for every input, or a dict of them by the name of the input; or
            `None`.
        report: `RobustnessReport` or `None`.

    Raises:
        ValueError: for another guard, and for names that are no inputs.
    """
    if guard is None:
        chosen = {}
    elif isinstance(guard, InputGuard):
        chosen = {spec.name: guard for spec in inputs.specs}
    elif isinstance(guard, dict):
        chosen = _check_names(guard, inputs)
    elif guard == "auto":
        chosen = {} if guards_within(model) else _guards_for(report, inputs)
    else:
        raise ValueError(
            'Argument `guard` must be "auto", an InputGuard, a dict of them by the names of the '
            f"inputs, or None. Received: guard={guard!r}"
        )
    return [chosen.get(spec.name) if spec.dtype.is_floating else None for spec in inputs.specs]


def guards_within(model):
    """Returns the guards that a model has among its layers, none for a `RandomizedSmoothing`."""
    if isinstance(model, RandomizedSmoothing):
        return []
    layers = layers_of(model, include_self=False)
    return [layer for layer in layers if isinstance(layer, InputGuard)]


def scale_of(model, spec, guard):
    """Returns the `InputGuard` that tells the range of an input, or `None`.

    That is the guard in front of the model, or the first layer of the model: a guard behind other
    layers tells nothing about the input.

    Args:
        model: the model.
        spec: `tf.TensorSpec` of its only input.
        guard: `InputGuard` in front of it, or `None`.
    """
    if guard is not None or not spec.dtype.is_floating:
        return guard
    inputs = {id(tensor) for tensor in keras.tree.flatten(getattr(model, "inputs", []))}
    is_sequential = isinstance(model, keras.Sequential)
    for found in guards_within(model):
        taken = set(map(id, input_tensors_of(found)))
        if found is model.layers[0] if is_sequential else inputs & taken:
            return found
    return None


def input_bounds(model, inputs, guards):
    """Returns the bounds of every input, or `None` where they are not known."""
    if len(inputs.specs) == 1:
        guards = [scale_of(model, inputs.specs[0], guards[0])]
    return [None if guard is None else guard.bounds for guard in guards]


def _check_names(guards, inputs):
    names = [spec.name for spec in inputs.specs]
    unknown = sorted(set(guards) - set(names))
    if unknown or not all(isinstance(one, InputGuard) for one in guards.values()):
        raise ValueError(
            f"Argument `guard` must have an InputGuard for some of the inputs {names}. "
            f"Received: guard={guards!r}"
        )
    return guards


def _guards_for(report, inputs):
    if report is None:
        return {spec.name: InputGuard(None) for spec in inputs.specs}
    threat_model = threat_model_of(report)
    parts = getattr(threat_model, "parts", {})
    guards = {}
    for spec, key in zip(inputs.specs, inputs.keys, strict=True):
        # An input that the attacker leaves alone has no box. It must be finite all the same.
        part = parts.get(key) if parts else threat_model
        guards[spec.name] = InputGuard(None if part is None else part.bounds)
    return guards


def warn_without_bounds(guards, guard, report):
    """Warns if nobody has said what the range of valid inputs is.

    Args:
        guards: list that `choose_guards` returned for `guard` and `report`.
        guard: as in `choose_guards`.
        report: as in `choose_guards`.
    """
    if report is None and guard == "auto" and any(one is not None for one in guards):
        warnings.warn(
            "Without a report nobody knows the range of valid inputs: the served model takes every "
            "finite number, and no files of pictures for inputs of floats. Give the `report`, or "
            "the bounds: guard=kr.layers.InputGuard((low, high)), with None for none. "
            "Received: report=None, guard='auto'",
            stacklevel=3,
        )


def threat_model_of(report):
    """Returns the threat model of a `RobustnessReport`, as an object.

    Raises:
        ValueError: for a class that is no threat model of this package, and for arguments that the
            class does not take.
    """
    name, config = report.threat_model["class_name"], report.threat_model["config"]
    found = threat_models.from_untrusted_config(name, config)
    if found is None:
        raise ValueError(
            f"The report's threat model {name} is not known here, and so are its bounds: give "
            "`guard`. Received: guard='auto'"
        )
    return found
