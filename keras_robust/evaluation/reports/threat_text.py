"""Text for a threat model: its radius beside the bounds, so that wrong units are visible."""

import math

import numpy as np

from keras_robust.threat_models.parsing import parse_fraction

_ORDERS = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}


def describe_threat(threat_model, inputs=None):
    """Returns text such as `Linf, epsilon 25.5 of 0 to 255 (10%)`.

    The percentage compares the radius with the one at which every input is feasible: in `Linf` the
    width of the box, in `L2` and `L1` the length of its diagonal in that norm.

    Args:
        threat_model: dict with `"class_name"`, `"config"` and `"epsilon"`, as in a report.
        inputs: dict with `"low"`, `"high"` and `"num_features"`, as in a report; `None` for several
            inputs.
    """
    name, config = threat_model["class_name"], threat_model["config"]
    parts = [_describe_part(*part) for part in _parts_of(config)]
    if parts:
        return f"{name} ({'; '.join(parts)})"
    if name == "Affine":
        radius = _range(_numbers(threat_model["epsilon"]))
        return f"{name}, {_describe_affine(config)}, epsilon {radius}"
    details = _describe_patch(config) if name == "Patch" else ""
    return f"{name}, {details}{_describe_radius(threat_model, inputs)}"


def _describe_affine(config):
    """Returns the ranges of the parameters."""
    units = {"rotation": "degrees", "translation": "pixels", "scale": "of the size"}
    return ", ".join(
        f"{name} {_range(_numbers(config.get(name)))} {unit}" for name, unit in units.items()
    )


def _describe_patch(config):
    """Returns the size of a patch, such as `5 x 5 pixels at any place, `."""
    size = config.get("size")
    pair = size if isinstance(size, list) else [size, size]
    if len(pair) == 2 and all(isinstance(length, int) for length in pair):
        return f"{pair[0]} x {pair[1]} pixels at any place, "
    return "at a fixed place, "


def _parts_of(config):
    """Returns pairs of an input name, or `None`, and an inner threat model of a wrapper."""
    # Threat models for several inputs have parts; other wrappers have one inner threat model.
    parts = config.get("parts", {None: config.get("threat_model")})
    if not isinstance(parts, dict):
        parts = dict(enumerate(parts if isinstance(parts, list) else ()))
    return [pair for pair in parts.items() if _is_threat_model(pair[1])]


def _is_threat_model(part):
    return isinstance(part, dict) and isinstance(part.get("config"), dict) and "class_name" in part


def _describe_part(name, part):
    text = describe_threat({**part, "epsilon": part["config"].get("epsilon")})
    return text if name is None else f"{name}: {text}"


def _describe_radius(threat_model, inputs):
    config = threat_model["config"]
    radius, bounds = _numbers(threat_model["epsilon"]), _box(config.get("bounds"))
    given = config.get("epsilon")
    is_fraction = isinstance(given, str) and _numbers(given) is not None
    text = f"epsilon {given if is_fraction else _range(radius)}"
    if bounds is None:
        text += " without a box"
        if inputs is not None:
            bounds = inputs["low"], inputs["high"]
            text += f", inputs from {inputs['low']:g} to {inputs['high']:g}"
    else:
        text += f" of {np.min(bounds[0]):g} to {np.max(bounds[1]):g}"
    order = _ORDERS.get(threat_model["class_name"])
    if radius is None or bounds is None or order is None:
        return text
    return text + _share(radius, bounds, order, inputs)


# Numbers of an untrusted report may overflow.
@np.errstate(over="ignore")
def _share(radius, bounds, order, inputs):
    """Returns the radius as a percentage of the box, or `""` if that is not known."""
    widths, features = np.asarray(bounds[1], "float64") - bounds[0], ""
    if not math.isinf(order):
        if inputs is None:
            return ""
        # The mean over the widths, times the features, also works for one bound per channel.
        size = inputs["num_features"]
        features = f" in {size:,} feature{'s' * (size > 1)}"
        widths = (np.mean(widths**order) * size) ** (1.0 / order)
    try:
        radius, widths = np.broadcast_arrays(radius, widths)
    # An untrusted report may have shapes that do not fit.
    except ValueError:
        return features
    if not (widths > 0.0).any():
        return features
    shares = 100.0 * radius[widths > 0.0] / widths[widths > 0.0]
    return f"{features} ({_range(shares, _percent)})"


def _range(values, show="{:g}".format):
    if values is None:
        return "unknown"
    low, high = show(np.min(values)), show(np.max(values))
    return low if low == high else f"{low} to {high}"


def _percent(share):
    return f"{share:.0f}%" if share >= 9.95 else f"{share:.2g}%"


def _box(bounds):
    """Returns the pair `(low, high)` as arrays, or `None` if `bounds` is not a pair of numbers."""
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
        return None
    low, high = map(_numbers, bounds)
    if low is None or high is None:
        return None
    try:
        return tuple(np.broadcast_arrays(low, high))
    except ValueError:
        return None


def _numbers(value):
    """Returns finite numbers as a float64 array, or `None` for anything else."""
    try:
        numbers = np.asarray(parse_fraction("epsilon", value), "float64")
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if numbers.size and np.isfinite(numbers).all() else None
