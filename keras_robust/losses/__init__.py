"""Losses per example from labels and logits, and Keras losses around them."""

from keras_robust.calls import explain_calls
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
from keras_robust.losses.probability_margin import ProbabilityMargin
from keras_robust.losses.probability_margin import probability_margin
from keras_robust.losses.soft_margin import SoftMargin
from keras_robust.losses.soft_margin import soft_margin
from keras_robust.losses.soft_targets import SoftTargets
from keras_robust.losses.soft_targets import check_temperature
from keras_robust.losses.soft_targets import soft_targets
from keras_robust.losses.targeted_dlr import lead_of
from keras_robust.losses.targeted_dlr import targeted_dlr
from keras_robust.losses.temperature_cross_entropy import TemperatureCrossEntropy
from keras_robust.losses.temperature_cross_entropy import temperature_cross_entropy

FUNCTIONS = {
    "cross_entropy": cross_entropy,
    "dlr": dlr,
    "kl": kl_divergence,
    "margin": margin,
    "probability_margin": probability_margin,
    "soft_margin": soft_margin,
}

_CLASSES = (
    DLR,
    LogitDistance,
    LogitKLDivergence,
    Margin,
    ProbabilityMargin,
    SoftMargin,
    SoftTargets,
    TemperatureCrossEntropy,
)
explain_calls(_CLASSES)

__all__ = [
    "DLR",
    "FUNCTIONS",
    "LogitDistance",
    "LogitKLDivergence",
    "Margin",
    "ProbabilityMargin",
    "SoftMargin",
    "SoftTargets",
    "TemperatureCrossEntropy",
    "check_temperature",
    "cross_entropy",
    "dlr",
    "kl_divergence",
    "lead_of",
    "logit_distance",
    "margin",
    "probability_margin",
    "soft_margin",
    "soft_targets",
    "targeted_dlr",
    "temperature_cross_entropy",
    "to_indices",
    "to_rows",
]
