"""The examples that are attacked: read into arrays, and checked."""

import functools

import keras
import numpy as np
from keras import ops

from keras_robust import losses
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.batches import read_batches
from keras_robust.configurable import shown
from keras_robust.threat_models.parsing import box_slack

_BOX_SLACK = 1e-4  # Of the width of the box.


def to_arrays(data, num_examples=None):
    """Returns `x` and `y` as arrays from `(x, y)` or from an iterable of batches `(x, y)`.

    Several inputs are a structure of arrays, such as a dict.
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
    if hasattr(data, "shape") or isinstance(data, dict):
        what = "a dict of arrays" if isinstance(data, dict) else f"one array of shape {data.shape}"
        raise ValueError(f"Expected data as `(x, y)`, inputs and labels. Received: {what}")
    if not hasattr(data, "__iter__"):
        raise ValueError(
            "Expected data as `(x, y)` arrays or as an iterable of batches `(x, y)`. "
            f"Received: {data!r}"
        )
    batches = list(read_batches(data, _parse_batch, num_examples))
    if not batches:
        raise ValueError("Expected at least one example. Received: empty data")
    parts = (keras.tree.map_structure(_joined, *parts) for parts in zip(*batches, strict=True))
    x, y = (models.take(part, slice(num_examples)) for part in parts)
    return x, y


def _parse_batch(batch):
    if isinstance(batch, dict):
        keys = [repr(key) for key in batch]
        names = keys if len(keys) == 2 else ["'image'", "'label'"]
        raise ValueError(
            "Expected batches (x, y), inputs and labels. Take them out of the dicts: "
            f"`dataset.map(lambda batch: (batch[{names[0]}], batch[{names[1]}]))`. "
            f"Received: batches that are dicts, with the keys {', '.join(keys)}"
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
    # A list of two batches of two arrays looks much like a pair whose inputs are such a list.
    return hasattr(x, "shape") or (keras.tree.is_nested(x) and hasattr(y, "shape"))


def _shapes(x):
    return keras.tree.map_structure(np.shape, x)


def _arrays(part):
    """Returns the one array in a structure, or else the structure with arrays."""
    if isinstance(part, (list, tuple)) and not any(map(_is_array_or_structure, part)):
        return np.asarray(part)  # A list of numbers, of one perhaps.
    return as_structure(models.single(part))


def _is_array_or_structure(part):
    return hasattr(part, "shape") and np.ndim(part) > 0 or keras.tree.is_nested(part)


def as_structure(part):
    """Returns a structure of arrays."""
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
    """Returns `x` and `y` as arrays, what is attacked in float32, or says what is wrong.

    `box` says where the bounds are that the threat model has.
    """
    x = threat_model.map_inputs(
        functools.partial(_check_input, box=box),
        as_structure(x) if _names_inputs(threat_model) else _arrays(x),
    )
    sizes = {len(leaf) for leaf in keras.tree.flatten(x)}
    if len(sizes) > 1:
        raise ValueError(
            f"Expected inputs with as many examples each. Received: {sorted(sizes)} examples"
        )
    if y is not None:
        parts = [np.shape(part) for part in keras.tree.flatten(y) if hasattr(part, "shape")]
        # A list of as many arrays as examples has a row of labels for each.
        if len(parts) not in (0, 1, models.size_of(x)) and all(parts):
            raise ValueError(
                "Expected one label per example, of one classification. Of several outputs judge "
                "one after the other: `keras.Model(model.input, model.outputs[0])`. "
                f"Received: {len(parts)} arrays of labels, of shapes {parts}"
            )
        y = ops.convert_to_numpy(y if isinstance(y, (list, tuple)) else models.single(y))
        if y.dtype.kind not in "biufV":
            raise ValueError(
                "Labels must be class indices, or rows with one entry for each class. "
                f"Received: labels of dtype {y.dtype}"
            )
        if y.shape[:1] != (models.size_of(x),):
            raise ValueError(
                "Expected one label per example. "
                f"Received: {models.size_of(x)} examples, labels of shape {y.shape}"
            )
    return x, y


def check_classes(y, num_classes):
    """Returns the labels as class indices, or says which are no class."""
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
    if threat_model is not None and x.dtype.kind in "OSU":
        raise ValueError(
            f"{label} must be numbers, as an attack changes them a little. For text perturb an "
            "embedding: kr.threat_models.AtLayer(name, kr.L2(1.0, bounds=None)). "
            f"Received: an array of dtype {x.dtype}"
        )
    if threat_model is not None:
        x = x.astype("float32")
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise ValueError(f"{label} must be finite. Received: {(~np.isfinite(x)).sum()} NaN or Inf")
    if threat_model is None:
        return x
    if name is None:
        threat_model.check_shape(x.shape)
    if threat_model.bounds is not None:
        low, high = threat_model.bounds
        slack = box_slack(threat_model.bounds, _BOX_SLACK)
        if np.any(x < low - slack) or np.any(x > high + slack):
            raise ValueError(
                f"{label} must lie in {box}. Rescale them, or give the "
                "bounds that they have, with epsilon in the same units. Received: values in "
                f"[{x.min():g}, {x.max():g}] under bounds={shown(threat_model.bounds)}"
            )
        x = np.clip(x, low, high).astype("float32")
    return x
