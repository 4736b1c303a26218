"""Validation of the labels, clean outputs and threat model of an evaluation."""

import numpy as np

from keras_robust import threat_models
from keras_robust.attacks.data import check_classes


def check_threat_model(identifier):
    """Returns the threat model for `identifier`, which must change inputs of the model."""
    threat_model = threat_models.get(identifier)
    if not threat_model.changes_inputs:
        raise ValueError(
            "Robust accuracy is about inputs that an attacker can send, and this threat model "
            "changes the outputs of a layer. Use `attack.run`, and take the mean of its `success`, "
            f"or give a threat model of an input. Received: {threat_model!r}"
        )
    return threat_model


def as_model(model):
    """Returns a callable that returns logits, for a loaded SavedModel as well.

    Raises:
        ValueError: for a class, and for an object that returns no logits.
    """
    if isinstance(model, type):
        raise ValueError(
            "Expected a model, and got a class. Create an instance of it, and train it first. "
            f"Received: model={model.__name__}"
        )
    signatures = getattr(model, "signatures", None)
    if not callable(model) and "logits" in (signatures or ()):
        return signatures["logits"]
    if callable(model):
        return model
    known = "" if signatures is None else f" with the signatures {sorted(signatures)}"
    raise ValueError(
        "Expected a keras.Model, a function of tensors that returns logits, a SavedModel with a "
        "signature `logits` (otherwise pass the signature that returns logits), or, for a "
        "function of NumPy arrays, kr.evaluation.BlackBox. "
        f"Received: an object of type {type(model).__name__}{known}"
    )


def check_labels(y, logits):
    """Returns the labels as class indices, or raises ValueError if they are not classes."""
    size, num_classes = logits.shape
    y = np.asarray(y)
    if y.dtype.kind not in "biuf" or y.shape not in ((size,), (size, 1), (size, num_classes)):
        raise ValueError(
            f"Labels must be class indices from 0 to {num_classes - 1}, or rows with one entry for "
            f"each of the {num_classes} classes of the model. "
            f"Received: labels of shape {y.shape} and dtype {y.dtype}"
        )
    # Rows may be probabilities, but class indices must be whole.
    if y.dtype.kind == "f" and y.shape != (size, num_classes) and np.any(y != np.round(y)):
        raise ValueError(
            "Labels must be class indices, whole numbers. "
            f"Received: labels such as {y[y != np.round(y)].ravel()[0]}"
        )
    return check_classes(y, num_classes)
