"""Adversarial attacks: how a misclassified input is found."""

from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack import registry
from keras_robust.attacks.auto_attack import AutoAttack
from keras_robust.attacks.decision_based.boundary import Boundary
from keras_robust.attacks.decision_based.hop_skip_jump import HopSkipJump
from keras_robust.attacks.gradient.apgd import APGD
from keras_robust.attacks.gradient.bim import BIM
from keras_robust.attacks.gradient.fgsm import FGSM
from keras_robust.attacks.gradient.iterative_attack import IterativeAttack
from keras_robust.attacks.gradient.momentum_pgd import MomentumPGD
from keras_robust.attacks.gradient.nfgsm import NFGSM
from keras_robust.attacks.gradient.pgd import PGD
from keras_robust.attacks.gradient.random_start_fgsm import RandomStartFGSM
from keras_robust.attacks.gradient.targeted_apgd import TargetedAPGD
from keras_robust.attacks.gradient.virtual_adversarial import VirtualAdversarial
from keras_robust.attacks.grid_search import GridSearch
from keras_robust.attacks.minimum_norm.carlini_wagner import CarliniWagner
from keras_robust.attacks.minimum_norm.ddn import DDN
from keras_robust.attacks.minimum_norm.deepfool import DeepFool
from keras_robust.attacks.minimum_norm.ead import EAD
from keras_robust.attacks.minimum_norm.fab import FAB
from keras_robust.attacks.minimum_norm.fmn import FMN
from keras_robust.attacks.minimum_norm.jsma import JSMA
from keras_robust.attacks.minimum_norm.lbfgs import LBFGS
from keras_robust.attacks.minimum_norm.minimum_norm_attack import NEVER
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.minimum_norm.pdpgd import PDPGD
from keras_robust.attacks.minimum_norm.sigma_zero import SigmaZero
from keras_robust.attacks.minimum_norm.targeted_fab import TargetedFAB
from keras_robust.attacks.random_noise import RandomNoise
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.score_based.one_pixel import OnePixel
from keras_robust.attacks.score_based.spsa import SPSA
from keras_robust.attacks.score_based.square import Square
from keras_robust.attacks.search_problem import SearchProblem
from keras_robust.attacks.transfer import Transfer

ALL = (
    AutoAttack,
    APGD,
    BIM,
    Boundary,
    CarliniWagner,
    DDN,
    DeepFool,
    EAD,
    FAB,
    FGSM,
    FMN,
    GridSearch,
    HopSkipJump,
    JSMA,
    LBFGS,
    MomentumPGD,
    NFGSM,
    OnePixel,
    PDPGD,
    PGD,
    RandomNoise,
    RandomStartFGSM,
    SPSA,
    SigmaZero,
    Square,
    TargetedAPGD,
    TargetedFAB,
    Transfer,
    VirtualAdversarial,
)
registry.extend(ALL)
get = registry.get


def get_untargeted(identifier):
    """Returns the attack for `identifier`, or raises ValueError if it needs target labels."""
    attack = get(identifier)
    if getattr(attack, "targeted", False) is True:
        raise ValueError(
            "Training and evaluation have no target labels: use targeted='least_likely', or call "
            f"the attack itself with target labels. Received: {attack}"
        )
    return attack


def get_for_evaluation(identifier):
    """Returns the attack for `identifier`, or raises ValueError if it leaves the threat model."""
    attack = get_untargeted(identifier)
    if not attack.stays_in_ball:
        raise ValueError(
            f"{type(attack).__name__} makes examples for training, which may leave the ball of the "
            "threat model, so that they cannot measure robustness. Use another attack here, such "
            f'as "pgd". Received: {attack}'
        )
    return attack


__all__ = [
    "AutoAttack",
    "ALL",
    "APGD",
    "BIM",
    "Boundary",
    "CarliniWagner",
    "DDN",
    "DeepFool",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "Attack",
    "AttackResult",
    "GridSearch",
    "HopSkipJump",
    "IterativeAttack",
    "JSMA",
    "LBFGS",
    "MinimumNormAttack",
    "MomentumPGD",
    "NEVER",
    "NFGSM",
    "OnePixel",
    "PDPGD",
    "PGD",
    "RandomNoise",
    "RandomStartFGSM",
    "SPSA",
    "SearchProblem",
    "SigmaZero",
    "Square",
    "TargetedAPGD",
    "TargetedFAB",
    "Transfer",
    "VirtualAdversarial",
    "get",
    "get_for_evaluation",
    "get_untargeted",
]
