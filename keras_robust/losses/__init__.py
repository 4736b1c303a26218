"""Per-example functions of labels and logits, and thin Keras losses around them."""

from keras_robust.losses.cross_entropy import cross_entropy
from keras_robust.losses.dlr import DLR
from keras_robust.losses.dlr import dlr
from keras_robust.losses.kl_divergence import LogitKLDivergence
from keras_robust.losses.kl_divergence import kl_divergence
from keras_robust.losses.labels import to_indices
from keras_robust.losses.labels import to_rows
from keras_robust.losses.logit_distance import LogitDistance
from keras_robust.losses.logit_distance import logit_distance
from keras_robust.losses.margin import Margin
from keras_robust.losses.margin import margin

FUNCTIONS = {"cross_entropy": cross_entropy, "dlr": dlr, "kl": kl_divergence, "margin": margin}

__all__ = [
    "DLR",
    "FUNCTIONS",
    "LogitDistance",
    "LogitKLDivergence",
    "Margin",
    "cross_entropy",
    "dlr",
    "kl_divergence",
    "logit_distance",
    "margin",
    "to_indices",
    "to_rows",
]
