"""What an evaluation needs of labels and threat model."""

import numpy as np

from keras_robust import losses
from keras_robust import threat_models


def check_threat_model(identifier):
    """Returns the threat model for `identifier`, which must be about inputs of the model."""
    threat_model = threat_models.get(identifier)
    if not threat_model.changes_inputs:
        raise ValueError(
            "Robust accuracy is about inputs that an attacker can send, and this threat model "
            "changes what a layer puts out. Use `attack.run` and the share of `success`, or give "
            f"the threat model of an input. Received: {threat_model!r}"
        )
    return threat_model


def check_labels(y, logits):
    """Returns the labels as class indices, or says which are no class."""
    labels = np.asarray(losses.to_indices(y, logits.shape[-1]))
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"Labels must be class indices from 0 to {logits.shape[-1] - 1}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels
