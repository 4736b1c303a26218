"""How is a bad input searched?"""

from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack import Found
from keras_robust.attacks.bim import BIM
from keras_robust.attacks.fgsm import FGSM
from keras_robust.attacks.iterative_attack import IterativeAttack
from keras_robust.attacks.momentum_pgd import MomentumPGD
from keras_robust.attacks.pgd import PGD
from keras_robust.registry import Registry

ALL = (BIM, FGSM, MomentumPGD, PGD)
get = Registry("attack", Attack, ALL).get

__all__ = [
    "ALL",
    "BIM",
    "FGSM",
    "Attack",
    "Found",
    "IterativeAttack",
    "MomentumPGD",
    "PGD",
    "get",
]
