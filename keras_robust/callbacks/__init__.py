"""When does it happen in `fit`?"""

from keras_robust.callbacks.adv_train import AdvTrain
from keras_robust.callbacks.robust_validation import RobustValidation

ALL = (AdvTrain, RobustValidation)

__all__ = ["ALL", "AdvTrain", "RobustValidation"]
