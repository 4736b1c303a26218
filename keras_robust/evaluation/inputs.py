"""Checked arguments of an evaluation: model, examples, threat model and clean logits."""

import typing

import numpy as np

from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.data import check_examples
from keras_robust.attacks.data import to_arrays
from keras_robust.evaluation.validation import as_model
from keras_robust.evaluation.validation import check_labels
from keras_robust.evaluation.validation import check_threat_model
from keras_robust.models import predict_clean
from keras_robust.threat_models import ThreatModel


class EvaluationInputs(typing.NamedTuple):
    """A model with checked examples.

    Fields: `model`, callable that returns logits; `x`, array or structure of arrays; `labels`,
    class indices `(num_examples,)`; `threat_model`; `logits`, the logits of the clean examples.
    """

    model: typing.Callable
    x: object
    labels: np.ndarray
    threat_model: ThreatModel
    logits: np.ndarray

    @classmethod
    def of(cls, model, data, threat_model, *, num_examples, batch_size):
        """Returns the checked arguments of `evaluate`, or raises ValueError for a wrong one."""
        threat_model = check_threat_model(threat_model)
        x, y = check_examples(*to_arrays(data, num_examples), threat_model)
        check_counts(batch_size=batch_size)
        model = as_model(model)
        logits = predict_clean(model, x, batch_size)
        return cls(model, x, check_labels(y, logits), threat_model, logits)
