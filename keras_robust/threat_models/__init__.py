"""What may the attacker do?"""

from keras_robust.registry import Registry
from keras_robust.threat_models.l1 import L1
from keras_robust.threat_models.l2 import L2
from keras_robust.threat_models.linf import Linf
from keras_robust.threat_models.threat_model import ThreatModel

ALL = (L1, L2, Linf)
get = Registry("threat model", ThreatModel, ALL).get

__all__ = ["ALL", "L1", "L2", "Linf", "ThreatModel", "get"]
