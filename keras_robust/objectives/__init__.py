"""Objectives: the losses that training minimizes."""

from keras_robust.objectives.adversarial import Adversarial
from keras_robust.objectives.adversarial_pool import AdversarialPool
from keras_robust.objectives.ard import ARD
from keras_robust.objectives.awp import AWP
from keras_robust.objectives.clean import Clean
from keras_robust.objectives.clean_logit_pairing import CleanLogitPairing
from keras_robust.objectives.defensive_distillation import DefensiveDistillation
from keras_robust.objectives.free import Free
from keras_robust.objectives.gaussian_noise import GaussianNoise
from keras_robust.objectives.grad_align import GradAlign
from keras_robust.objectives.ibp import IBP
from keras_robust.objectives.input_gradient import InputGradient
from keras_robust.objectives.jacobian import Jacobian
from keras_robust.objectives.kurakin import Kurakin
from keras_robust.objectives.label_smoothing import LabelSmoothing
from keras_robust.objectives.logit_pairing import LogitPairing
from keras_robust.objectives.logit_squeezing import LogitSqueezing
from keras_robust.objectives.macer import MACER
from keras_robust.objectives.mart import MART
from keras_robust.objectives.mixed import Mixed
from keras_robust.objectives.mma import MMA
from keras_robust.objectives.mtl_ibp import MTLIBP
from keras_robust.objectives.objective import Objective
from keras_robust.objectives.objective import get
from keras_robust.objectives.objective import registry
from keras_robust.objectives.objective_wrapper import ObjectiveWrapper
from keras_robust.objectives.objective_wrapper import Regularised
from keras_robust.objectives.rslad import RSLAD
from keras_robust.objectives.sabr import SABR
from keras_robust.objectives.smooth_adv import SmoothAdv
from keras_robust.objectives.trades import TRADES
from keras_robust.objectives.vat import VAT
from keras_robust.objectives.worst_case_linear import WorstCaseLinear

ALL = (
    ARD,
    AWP,
    Adversarial,
    AdversarialPool,
    Clean,
    CleanLogitPairing,
    DefensiveDistillation,
    Free,
    GaussianNoise,
    GradAlign,
    IBP,
    InputGradient,
    Jacobian,
    Kurakin,
    LabelSmoothing,
    LogitPairing,
    LogitSqueezing,
    MACER,
    MART,
    MMA,
    MTLIBP,
    Mixed,
    RSLAD,
    SABR,
    SmoothAdv,
    TRADES,
    VAT,
    WorstCaseLinear,
)
registry.extend(ALL)

__all__ = [
    "ALL",
    "ARD",
    "AWP",
    "Adversarial",
    "AdversarialPool",
    "Clean",
    "CleanLogitPairing",
    "DefensiveDistillation",
    "Free",
    "GaussianNoise",
    "GradAlign",
    "IBP",
    "InputGradient",
    "Jacobian",
    "Kurakin",
    "LabelSmoothing",
    "LogitPairing",
    "LogitSqueezing",
    "MACER",
    "MART",
    "MMA",
    "MTLIBP",
    "Mixed",
    "Objective",
    "RSLAD",
    "Regularised",
    "SABR",
    "SmoothAdv",
    "TRADES",
    "VAT",
    "WorstCaseLinear",
    "ObjectiveWrapper",
    "get",
]
