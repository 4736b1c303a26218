"""The examples that are attacked: read into arrays, and checked."""

import numpy as np
from keras import ops

from keras_robust import backend


def to_arrays(data, num_examples=None):
    """Returns `x` and `y` as arrays from `(x, y)` or from an iterable of batches `(x, y)`."""
    if num_examples is not None and num_examples < 1:
        raise ValueError(
            f"Argument `num_examples` must be at least 1. Received: num_examples={num_examples}"
        )
    is_pair = isinstance(data, (tuple, list)) and len(data) >= 2
    if is_pair and hasattr(backend.single(data[0]), "shape"):
        x, y = (np.asarray(backend.single(part))[:num_examples] for part in data[:2])
        return x, y
    if not hasattr(data, "__iter__"):
        raise ValueError(
            "Expected data as `(x, y)` arrays or as an iterable of batches `(x, y)`. "
            f"Received: {data!r}"
        )
    batches, count = [], 0
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(
                "Expected batches (x, y), with labels. "
                f"Received: a batch of type {type(batch).__name__}"
            )
        x, y = (np.asarray(backend.single(part)) for part in batch[:2])
        if x.dtype == object or y.dtype == object:
            raise ValueError(
                "Expected one input and one label per example. "
                f"Received: batches of type {type(batch[0]).__name__} with several entries"
            )
        if y.ndim == 0:
            raise ValueError(
                "Expected batches of examples: use `dataset.batch(256)`. "
                f"Received: single examples, x of shape {x.shape} and y of shape ()"
            )
        batches.append((x, y))
        count += len(batches[-1][0])
        if num_examples is not None and count >= num_examples:
            break
    if not batches:
        raise ValueError("Expected at least one example. Received: empty data")
    x, y = (np.concatenate(parts)[:num_examples] for parts in zip(*batches, strict=True))
    return x, y


def check_examples(x, y, threat_model):
    """Returns float32 `x` and `y` as arrays, or says what is wrong with them."""
    x = ops.convert_to_numpy(x)
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(
            f"Expected a batch of at least one example, (n, ...). Received: x of shape {x.shape}"
        )
    x = x.astype("float32")
    threat_model.check_fits(x.shape)
    if not np.isfinite(x).all():
        raise ValueError(f"Inputs must be finite. Received: {(~np.isfinite(x)).sum()} NaN or Inf")
    if threat_model.bounds is not None:
        low, high = threat_model.bounds
        if np.any(x < low - 1e-4) or np.any(x > high + 1e-4):
            raise ValueError(
                "Inputs must lie in the bounds of the threat model. Rescale them, or give the "
                "bounds that they have, with epsilon in the same units. Received: values in "
                f"[{x.min():g}, {x.max():g}] under bounds={threat_model.bounds}"
            )
        x = np.clip(x, low, high).astype("float32")
    if y is not None:
        y = ops.convert_to_numpy(y)
        if y.shape[:1] != x.shape[:1]:
            raise ValueError(
                "Expected one label per example. "
                f"Received: {len(x)} examples, labels of shape {y.shape}"
            )
    return x, y
