"""Logits of a model for arrays, computed in batches."""

import keras
import numpy as np
from keras import ops

from keras_robust.models.classifier import JUDGE_OTHERS
from keras_robust.models.classifier import Classifier
from keras_robust.models.preprocessor import refuse_preprocessor
from keras_robust.models.structures import batches_of
from keras_robust.models.structures import single

_SLACK = 1e-3  # For rounding at the ends of [0, 1].
_UNKNOWN_COLUMN = (
    "The model returns one column within [0, 1], which may be a logit or the probability of "
    "class 1. The predicted class depends on which of them it is. Return the logit, "
    "`log(p / (1 - p))` for a probability p, or two columns, such as [1 - p, p]; a keras.Model "
    "may be compiled with a loss instead. Received: outputs of shape {} from {:.3g} to {:.3g}"
)


def predict_logits(model, x, batch_size=256):
    """Returns NumPy logits `(n, num_classes)` for an array or a structure of arrays."""
    return np.concatenate([logits for logits, _ in _predict(model, x, batch_size)])


def predict_clean_logits(model, x, batch_size=256):
    """Returns the logits of clean examples, and refuses outputs of unknown meaning.

    Raises:
        ValueError: for a single column within [0, 1] that may hold logits or probabilities.
    """
    logits, columns = zip(*_predict(model, x, batch_size), strict=True)
    if columns[0] is not None:
        column = np.concatenate(columns)
        if np.all((column >= -_SLACK) & (column <= 1.0 + _SLACK)):
            raise ValueError(_UNKNOWN_COLUMN.format(column.shape, column.min(), column.max()))
    return np.concatenate(logits)


def predict_clean(model, x, batch_size=256):
    """Returns the logits of clean examples, and raises ValueError unless all are finite."""
    logits = predict_clean_logits(model, x, batch_size)
    broken = int((~np.isfinite(logits)).any(axis=-1).sum())
    if broken:
        raise ValueError(
            "The model returns NaN or infinite values on clean examples, so there is nothing to "
            "evaluate. Check its weights, and the preprocessing of the inputs. "
            f"Received: {broken} such examples"
        )
    return logits


def _predict(model, x, batch_size):
    """Yields the logits of each batch, and its outputs if their meaning is unknown."""
    # A call and `predict` disagree on the inputs of such a model.
    refuse_preprocessor(model)
    # A structure has the form of the model's inputs already, and needs no packing.
    classifier = Classifier(model, (lambda rows: rows) if keras.tree.is_nested(x) else None)
    for rows in batches_of(x, batch_size):
        outputs = classifier(rows)
        if outputs is None:
            raise ValueError(
                f"Expected a model that returns logits. Received: None from {classifier.model!r}"
            )
        problem = classifier.logits_mismatch(outputs) if classifier.loss_name else None
        if problem is not None and bool(problem[0]):
            values = ops.convert_to_numpy(single(outputs))
            raise ValueError(problem[1].format(f"{values.min():g}", f"{values.max():g}"))
        classifier.refuse_others(outputs, advice=JUDGE_OTHERS)
        logits = ops.convert_to_numpy(classifier.to_logits(outputs))
        yield logits, logits[:, 1:] if classifier.has_unknown_column else None
