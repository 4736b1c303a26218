"""Callbacks of `fit`: adversarial training, validation, guards and backups."""

from keras_robust.callbacks.adv_train import AdvTrain
from keras_robust.callbacks.atomic_backup import AtomicBackup
from keras_robust.callbacks.collapse_guard import CollapseGuard
from keras_robust.callbacks.instances import refuse_classes
from keras_robust.callbacks.robust_validation import RobustValidation
from keras_robust.calls import explain_calls

ALL = (AdvTrain, AtomicBackup, CollapseGuard, RobustValidation)
explain_calls(ALL)
refuse_classes(ALL)

__all__ = ["ALL", "AdvTrain", "AtomicBackup", "CollapseGuard", "RobustValidation"]
