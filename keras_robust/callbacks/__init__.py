"""When does it happen in `fit`?"""

from keras_robust.callbacks.adv_train import AdvTrain
from keras_robust.callbacks.atomic_backup import AtomicBackup
from keras_robust.callbacks.collapse_guard import CollapseGuard
from keras_robust.callbacks.robust_validation import RobustValidation

ALL = (AdvTrain, AtomicBackup, CollapseGuard, RobustValidation)

__all__ = ["ALL", "AdvTrain", "AtomicBackup", "CollapseGuard", "RobustValidation"]
