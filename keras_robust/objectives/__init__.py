"""What does training minimise?"""

from keras_robust.objectives.adversarial import Adversarial
from keras_robust.objectives.clean_logit_pairing import CleanLogitPairing
from keras_robust.objectives.logit_pairing import LogitPairing
from keras_robust.objectives.mixed import Mixed
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.trades import TRADES
from keras_robust.registry import Registry

ALL = (Adversarial, CleanLogitPairing, LogitPairing, Mixed, TRADES)
get = Registry("objective", Objective, ALL).get

__all__ = [
    "ALL",
    "Adversarial",
    "CleanLogitPairing",
    "LogitPairing",
    "Mixed",
    "Objective",
    "TRADES",
    "get",
]
