"""keras_robust: make a Keras model robust against adversarial examples with one callback."""

import importlib

from keras_robust import attacks
from keras_robust import callbacks
from keras_robust import certification
from keras_robust import datasets
from keras_robust import evaluation
from keras_robust import initializers
from keras_robust import layers
from keras_robust import losses
from keras_robust import objectives
from keras_robust import threat_models
from keras_robust.callbacks import AdvTrain
from keras_robust.callbacks import CollapseGuard
from keras_robust.callbacks import RobustValidation
from keras_robust.certification import CertificateReport
from keras_robust.certification import certify
from keras_robust.evaluation import RobustnessReport
from keras_robust.evaluation import evaluate
from keras_robust.evaluation import sanity_check
from keras_robust.threat_models import L0
from keras_robust.threat_models import L1
from keras_robust.threat_models import L2
from keras_robust.threat_models import Linf
from keras_robust.version import __version__

__all__ = [
    "AdvTrain",
    "CertificateReport",
    "CollapseGuard",
    "L0",
    "L1",
    "L2",
    "Linf",
    "RobustValidation",
    "RobustnessReport",
    "__version__",
    "attacks",
    "callbacks",
    "certification",
    "certify",
    "datasets",
    "evaluate",
    "evaluation",
    "export",
    "export_saved_model",
    "initializers",
    "layers",
    "losses",
    "objectives",
    "sanity_check",
    "threat_models",
]


def __getattr__(name):
    """Imports `export` when it is first used: it needs TensorFlow, and nothing else does on JAX."""
    if name not in ("export", "export_saved_model"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    export = importlib.import_module("keras_robust.export")
    return export if name == "export" else export.export_saved_model
