"""Reads the examples to attack into arrays, and checks them."""

import functools

import keras
import numpy as np
from keras import ops

from keras_robust import losses
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.batches import read_batches
from keras_robust.configurable import short_repr
from keras_robust.threat_models.parsing import box_slack

_BOX_SLACK = 1e-4  # As a share of the width of the box.


def to_arrays(data, num_examples=None):
    """Returns `x` and `y` as arrays from `(x, y)` or from an iterable of batches `(x, y)`.

    For a model with several inputs, `x` is a structure of arrays, such as a dict.
    """
    if num_examples is not None:
        check_counts(num_examples=num_examples)
    if _is_pair(data):
        x, y = as_structure(data[0]), _arrays(data[1])
        if np.ndim(y) == 0 and not keras.tree.is_nested(y):
            raise ValueError(
                "Expected one label per example, and a batch of examples: `x[None], [y]` for one. "
                f"Received: labels of shape () and inputs of shape {_shapes(x)}"
            )
        return models.take(x, slice(num_examples)), models.take(y, slice(num_examples))
    _check_iterable(data)
    batches = list(read_batches(data, _parse_batch, num_examples))
    if not batches:
        raise ValueError("Expected at least one example. Received: empty data")
    parts = (keras.tree.map_structure(_joined, *parts) for parts in zip(*batches, strict=True))
    # The last batch may hold more examples than were asked for.
    x, y = (models.take(part, slice(num_examples)) for part in parts)
    return x, y


def _check_iterable(data):
    """Raises ValueError unless `data` may be an iterable of batches."""
    if hasattr(data, "shape") or isinstance(data, dict):
        what = "a dict of arrays" if isinstance(data, dict) else f"one array of shape {data.shape}"
        raise ValueError(f"Expected data as `(x, y)`, inputs and labels. Received: {what}")
    if not hasattr(data, "__iter__"):
        raise ValueError(
            "Expected data as `(x, y)` arrays or as an iterable of batches `(x, y)`. "
            f"Received: {data!r}"
        )


def dict_advice(batch):
    """Returns a sentence that says how to take inputs and labels out of batches that are dicts."""
    names = list(batch) if len(batch) == 2 else ["image", "label"]
    return (
        "Take them out of the dicts: "
        f"`dataset.map(lambda batch: (batch[{names[0]!r}], batch[{names[1]!r}]))`. "
    )


def _parse_batch(batch):
    if isinstance(batch, dict):
        raise ValueError(
            f"Expected batches (x, y), inputs and labels. {dict_advice(batch)}Received: batches "
            f"that are dicts, with the keys {', '.join(map(repr, batch))}"
        )
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            "Expected batches (x, y), with labels. "
            f"Received: a batch of type {type(batch).__name__}"
        )
    x, y = as_structure(batch[0]), _arrays(batch[1])
    if keras.tree.is_nested(y):
        raise ValueError(
            "Expected one label per example. "
            f"Received: batches with labels of type {type(y).__name__} with several entries"
        )
    if y.ndim == 0:
        raise ValueError(
            "Expected batches of examples: use `dataset.batch(256)`, and for two Python lists "
            "`(np.asarray(x), np.asarray(y))`. "
            f"Received: single examples, x of shape {_shapes(x)} and y of shape ()"
        )
    return x, y


def _is_pair(data):
    if not isinstance(data, (tuple, list)) or len(data) < 2:
        return False
    x, y = (models.single(part) for part in data[:2])
    if y is None:
        raise ValueError("Expected data as `(x, y)`, with labels. Received: y=None")
    # A list of two batches `(x, y)` must not pass for a pair whose inputs are a list of arrays.
    return hasattr(x, "shape") or (keras.tree.is_nested(x) and hasattr(y, "shape"))


def _shapes(x):
    return keras.tree.map_structure(np.shape, x)


def _arrays(part):
    """Returns the only array of a structure, or the structure with arrays as leaves."""
    if isinstance(part, (list, tuple)) and not any(map(_is_array_or_structure, part)):
        return np.asarray(part)  # A list of numbers is one array.
    return as_structure(models.single(part))


def _is_array_or_structure(part):
    return hasattr(part, "shape") and np.ndim(part) > 0 or keras.tree.is_nested(part)


def as_structure(part):
    """Returns `part` with arrays as leaves."""
    for leaf in keras.tree.flatten(part):
        models.refuse_sparse(leaf)
        if "Ragged" in type(leaf).__name__:
            raise ValueError(
                "Expected examples of one length: pad them, `x.to_tensor()`. "
                f"Received: an object of type {type(leaf).__name__}"
            )
    if isinstance(part, dict) or any(hasattr(leaf, "shape") for leaf in keras.tree.flatten(part)):
        return keras.tree.map_structure(np.asarray, part)
    return np.asarray(part)


def _joined(*parts):
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            "Expected examples of one shape in all batches: pad or crop them. "
            f"Received: batches of examples of shapes {sorted(shapes)[:5]}"
        )
    return np.concatenate(parts)


def check_examples(x, y, threat_model, box="the bounds of the threat model"):
    """Returns `x` and `y` as arrays, with the attacked inputs in float32.

    Args:
        x: the inputs, an array or a structure of arrays.
        y: labels, or `None`.
        threat_model: a `ThreatModel`.
        box: str, what error messages call the bounds of the threat model.

    Raises:
        ValueError: if the inputs or labels cannot be attacked under the threat model.
    """
    x = threat_model.map_inputs(
        functools.partial(_check_input, box=box),
        as_structure(x) if _names_inputs(threat_model) else _arrays(x),
    )
    sizes = {len(leaf) for leaf in keras.tree.flatten(x)}
    if len(sizes) > 1:
        raise ValueError(
            f"Expected the same number of examples in every input. Received: {sorted(sizes)} "
            "examples"
        )
    return x, None if y is None else _check_labels(y, models.size_of(x))


def check_rows(rows, size):
    """Returns the rows of a data set as an int array, all of them for `None`."""
    if rows is None:
        return np.arange(size)
    if not len(rows):
        raise ValueError("Expected at least one example to attack. Received: rows=[]")
    return np.asarray(rows)


def _check_labels(y, num_examples):
    """Returns the labels as an array, or raises ValueError unless there is one per example."""
    shapes = [np.shape(part) for part in keras.tree.flatten(y) if hasattr(part, "shape")]
    # A list with one array per example holds a row of labels for each of them.
    if len(shapes) not in (0, 1, num_examples) and all(shapes):
        raise ValueError(
            "Expected one label per example, for one classification output. If the model has "
            "several outputs, attack one at a time: `keras.Model(model.input, model.outputs[0])`. "
            f"Received: {len(shapes)} arrays of labels, of shapes {shapes}"
        )
    y = ops.convert_to_numpy(y if isinstance(y, (list, tuple)) else models.single(y))
    # `V` is the kind of bfloat16 in NumPy.
    if y.dtype.kind not in "biufV":
        raise ValueError(
            "Labels must be class indices, or rows with one entry for each class. "
            f"Received: labels of dtype {y.dtype}"
        )
    if y.shape[:1] != (num_examples,):
        raise ValueError(
            "Expected one label per example. "
            f"Received: {num_examples} examples, labels of shape {y.shape}"
        )
    return y


def check_classes(y, num_classes):
    """Returns the labels as class indices, or raises ValueError if one is not a class."""
    if y is None:
        raise ValueError("Expected one label per example. Received: y=None")
    labels = np.asarray(losses.to_indices(y, num_classes))
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"Labels must be class indices from 0 to {num_classes - 1}, as the model has "
            f"{num_classes} classes. Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels


def _names_inputs(threat_model):
    return type(threat_model).map_inputs is not threat_models.ThreatModel.map_inputs


def _check_input(x, name, threat_model, box):
    x = ops.convert_to_numpy(x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(
            f"Expected a batch of at least one example, (n, ...). Received: x of shape {x.shape}"
        )
    label = "Inputs" if name is None else f"The values of input `{name}`"
    # An input that the attacker does not change may have any dtype.
    if threat_model is None:
        _check_finite(x, label)
        return x
    if x.dtype.kind in "OSU":
        raise ValueError(
            f"{label} must be numbers, as an attack changes them a little. For text, perturb an "
            "embedding: kr.threat_models.AtLayer(name, kr.L2(1.0, bounds=None)). Received: an "
            f"array of dtype {x.dtype}"
        )
    x = x.astype("float32")
    _check_finite(x, label)
    if name is None:
        threat_model.check_shape(x.shape)
    return x if threat_model.bounds is None else _clip_rounding(x, label, threat_model.bounds, box)


def _check_finite(x, label):
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise ValueError(f"{label} must be finite. Received: {(~np.isfinite(x)).sum()} NaN or Inf")


def _clip_rounding(x, label, bounds, box):
    """Returns `x` clipped to the box, or raises ValueError if more than rounding lies outside."""
    low, high = bounds
    slack = box_slack(bounds, _BOX_SLACK)
    if np.any(x < low - slack) or np.any(x > high + slack):
        raise ValueError(
            f"{label} must lie in {box}. Rescale them, or pass the bounds of your inputs, with "
            f"epsilon in the same units. Received: values in [{x.min():g}, {x.max():g}] under "
            f"bounds={short_repr(bounds)}"
        )
    return np.clip(x, low, high).astype("float32")
