"""Choice of an input guard for each input of a served model."""

import warnings

from keras_robust import threat_models
from keras_robust.backend.keras_internals import layers_of
from keras_robust.layers import InputGuard
from keras_robust.layers import RandomizedSmoothing


def choose_guards(model, inputs, guard, report):
    """Returns an `InputGuard` or `None` for each input of a model.

    Inputs of integers or strings get no guard: they are categories, and cannot be NaN.

    Args:
        model: the model. If it contains an `InputGuard`, `"auto"` adds no other, unless the model
            adds noise in front of its own guard.
        inputs: `Inputs` of the model.
        guard: `"auto"` for the bounds in the threat model of the report, or no bounds without a
            report; an `InputGuard` for every input; a dict from names of inputs to guards; or
            `None`.
        report: `RobustnessReport` or `None`.

    Raises:
        ValueError: for any other `guard`, and for names that no input has.
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
    """Returns the guards among the layers of a model, and none for a `RandomizedSmoothing`."""
    # A guard inside comes after the noise, so it does not check the inputs themselves.
    if isinstance(model, RandomizedSmoothing):
        return []
    layers = layers_of(model, include_self=False)
    return [layer for layer in layers if isinstance(layer, InputGuard)]


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
        # An input that the attack does not change has no bounds, but it must be finite too.
        part = parts.get(key) if parts else threat_model
        guards[spec.name] = InputGuard(None if part is None else part.bounds)
    return guards


def warn_without_bounds(guards, guard, report):
    """Warns if the range of valid inputs is unknown.

    Args:
        guards: list that `choose_guards` returned for `guard` and `report`.
        guard: see `choose_guards`.
        report: see `choose_guards`.
    """
    if report is None and guard == "auto" and any(one is not None for one in guards):
        warnings.warn(
            "Without a report the range of valid inputs is unknown: the served model accepts every "
            "finite number, and no picture files for inputs of floats. Pass the `report`, or the "
            "bounds: guard=kr.layers.InputGuard((low, high)), or InputGuard(None) for no bounds. "
            "Received: report=None, guard='auto'",
            stacklevel=3,
        )


def threat_model_of(report):
    """Returns the threat model of a `RobustnessReport` as an object.

    Raises:
        ValueError: for a class that is not a threat model of this package, and for arguments that
            the class does not accept.
    """
    name, config = report.threat_model["class_name"], report.threat_model["config"]
    # A report may come from a file of somebody else, so it must not choose any class to build.
    found = threat_models.from_untrusted_config(name, config)
    if found is None:
        raise ValueError(
            f"The threat model {name} of the report is unknown, so its bounds are unknown too: "
            "pass `guard`. Received: guard='auto'"
        )
    return found
