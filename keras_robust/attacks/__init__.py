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


def get_untargeted(identifier):
    """Returns the attack for `identifier`, which must need no target labels."""
    attack = get(identifier)
    if getattr(attack, "targeted", False) is True:
        raise ValueError(
            "Training and evaluation have no target labels: use targeted='least_likely', or call "
            f"the attack itself. Received: {attack}"
        )
    return attack


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
    "get_untargeted",
]
