"""One instance or more of every public class, over which the conformance tests loop."""

import importlib
import inspect

import keras
import numpy as np

import keras_robust as kr
from tests.support import numpy_reference

PACKAGES = ("attacks", "threat_models", "losses", "objectives", "callbacks", "layers")

# Bases that are not used themselves, and records.
NOT_A_CASE = {
    "Attack",
    "AttackResult",
    "InputTransformation",
    "IterativeAttack",
    "MinimumNormAttack",
    "Objective",
    "Regularised",
    "SearchProblem",
    "ThreatModel",
    "ObjectiveWrapper",
}

ATTACKS = {
    "APGD": kr.attacks.APGD(num_steps=6),
    "APGD-shrinking": kr.attacks.APGD(num_steps=12, loss="margin", shrinking=True),
    "BIM": kr.attacks.BIM(num_steps=3),
    "Boundary": kr.attacks.Boundary(num_steps=30),
    "CarliniWagner": kr.attacks.CarliniWagner(num_steps=12, learning_rate=0.1),
    "DDN": kr.attacks.DDN(num_steps=15, gamma=0.2, initial_norm=0.3),
    "DeepFool": kr.attacks.DeepFool(),
    "EAD": kr.attacks.EAD(num_steps=12, search_steps=6, learning_rate=0.1),
    "FAB": kr.attacks.FAB(num_steps=6),
    "FGSM": kr.attacks.FGSM(),
    "FMN": kr.attacks.FMN(num_steps=10),
    "HopSkipJump": kr.attacks.HopSkipJump(num_steps=2, initial_samples=20),
    "JSMA": kr.attacks.JSMA(theta=-1.0),
    "LBFGS": kr.attacks.LBFGS(num_steps=8),
    "MomentumPGD": kr.attacks.MomentumPGD(num_steps=3),
    "MomentumPGD-random": kr.attacks.MomentumPGD(num_steps=2, random_start=True, num_restarts=2),
    "NFGSM": kr.attacks.NFGSM(noise=1.0),
    "OnePixel": kr.attacks.OnePixel(num_pixels=2, population_size=6, num_steps=2),
    "PDPGD": kr.attacks.PDPGD(num_steps=20),
    "PGD": kr.attacks.PGD(num_steps=3),
    "PGD-margin": kr.attacks.PGD(num_steps=2, step_size="1/20", loss="margin", num_restarts=2),
    "RandomNoise": kr.attacks.RandomNoise(num_samples=20),
    "RandomStartFGSM": kr.attacks.RandomStartFGSM(),
    "SPSA": kr.attacks.SPSA(num_steps=4, num_samples=8, learning_rate=0.1),
    "SigmaZero": kr.attacks.SigmaZero(num_steps=20),
    "Square": kr.attacks.Square(num_queries=30),
    "TargetedAPGD": kr.attacks.TargetedAPGD(num_targets=2, num_steps=6, loss="margin"),
    "TargetedFAB": kr.attacks.TargetedFAB(num_targets=2, num_steps=6),
    "VirtualAdversarial": kr.attacks.VirtualAdversarial(xi=0.1),
}
RANDOM_ATTACKS = (
    "APGD",
    "APGD-shrinking",
    "Boundary",
    "HopSkipJump",
    "MomentumPGD-random",
    "NFGSM",
    "OnePixel",
    "PGD",
    "PGD-margin",
    "RandomNoise",
    "RandomStartFGSM",
    "SPSA",
    "Square",
    "TargetedAPGD",
    "VirtualAdversarial",
)

# The norms of attacks that are not for all of L1, L2 and Linf, or that do the same in each.
ONLY = {
    "APGD-shrinking": ("L1",),
    "CarliniWagner": ("L2", "Linf"),
    "DDN": ("L2",),
    "EAD": ("L2", "L1"),
    "LBFGS": ("L2", "Linf"),
    "MomentumPGD-random": ("L2", "Linf"),
    "PGD-margin": ("L2", "Linf"),
    "Boundary": ("L2",),
    "HopSkipJump": ("L2", "Linf"),
    "JSMA": ("L0",),
    "OnePixel": ("L0",),
    "SigmaZero": ("L0",),
}


def class_of(case):
    """The name of the class of a case."""
    return case.split("-")[0]


def balls_of(attack):
    """Names of the threat models under which an attack of `ATTACKS` is tried.

    The default tier of the tests takes the first. Attacks take turns in which norm that is.
    """
    balls = ONLY.get(attack, ("L2", "L1", "Linf"))
    turn = list(ATTACKS).index(attack) % len(balls)
    return (*balls[turn:], *balls[:turn])


def kind_of(attack):
    """Whether an attack climbs a loss in the ball, or looks for the nearest mistake, or neither."""
    search = ATTACKS[attack]
    if isinstance(search, kr.attacks.MinimumNormAttack):
        return "nearest"
    climbs = search.uses_gradients and not isinstance(search, kr.attacks.TargetedAPGD)
    return "ascent" if climbs else "other"


THREAT_MODELS = {
    "L0": kr.threat_models.L0(4),
    "L1": kr.threat_models.L1(1.0),
    "L2": kr.threat_models.L2(0.4),
    "Linf": kr.threat_models.Linf(0.1),
    "Linf-channels": kr.threat_models.Linf([0.05, 0.1], ([-0.5, 0.0], [1.0, 1.5])),
}

# For every constructor argument of an attack, a value that must change what the attack finds.
_STEPS = {"num_steps": 2, "step_size": "1/9", "targeted": "least_likely", "loss": "margin"}
_RANDOM = {"num_restarts": 4, "eot_samples": 2}
_PENALTY = {
    "num_steps": 3,
    "search_steps": 3,
    "initial_weight": 3.0,
    "learning_rate": 0.3,
    "confidence": 0.5,
    "targeted": "least_likely",
}
ARGUMENT_CHANGES = {
    "APGD": {
        "num_steps": 3,
        "num_restarts": 3,
        "loss": "margin",
        "eot_samples": 2,
        "shrinking": True,
    },
    "BIM": _STEPS,
    "Boundary": {
        "num_steps": 5,
        "orthogonal_step": 0.3,
        "source_step": 0.1,
        "num_restarts": 3,
        "num_starts": 1,
    },
    "CarliniWagner": _PENALTY,
    "DDN": {"num_steps": 2, "gamma": 0.6, "initial_norm": 3.0, "targeted": "least_likely"},
    "DeepFool": {"num_classes": 2, "overshoot": 0.5, "num_steps": 1},
    "EAD": {**_PENALTY, "beta": 0.1, "decision_rule": "L1"},
    "FAB": {"num_steps": 1, "num_restarts": 3},
    "FGSM": {"targeted": "least_likely", "loss": "margin"},
    "FMN": {"num_steps": 2, "step_size": 0.1, "gamma": 0.5, "targeted": "least_likely"},
    "HopSkipJump": {
        "num_steps": 1,
        "initial_samples": 90,
        "max_samples": 10,
        "gamma": 0.1,
        "num_restarts": 3,
        "num_starts": 1,
        "samples_per_pass": 7,
    },
    "JSMA": {"theta": 0.5, "gamma": 0.4, "num_targets": 2, "targeted": True},
    "LBFGS": {
        "initial_weight": 3.0,
        "search_steps": 1,
        "num_steps": 2,
        "targeted": "least_likely",
    },
    "MomentumPGD": {**_STEPS, **_RANDOM, "random_start": True, "decay": 0.25},
    "NFGSM": {"noise": 2.0, "targeted": "least_likely", "loss": "margin"},
    "OnePixel": {
        "num_pixels": 1,
        "population_size": 8,
        "num_steps": 1,
        "scale": 2.0,
        "targeted": True,
    },
    "PDPGD": {
        "num_steps": 3,
        "step_size": 0.02,
        "dual_step_size": 1.0,
        "targeted": "least_likely",
    },
    "PGD": {**_STEPS, **_RANDOM, "random_start": False},
    "RandomNoise": {
        "num_samples": 3,
        "sphere": True,
        "targeted": "least_likely",
        "loss": "kl",
    },
    "RandomStartFGSM": {"step_size": "1/20", "targeted": "least_likely", "loss": "margin"},
    "SPSA": {
        "num_steps": 1,
        "num_samples": 16,
        "learning_rate": 0.01,
        "delta": 0.3,
        "random_start": True,
        "num_restarts": 3,
        "targeted": "least_likely",
        "loss": "cross_entropy",
    },
    "SigmaZero": {
        "num_steps": 2,
        "step_size": 0.1,
        "sigma": 1.0,
        "threshold": 0.0,
        "threshold_factor": 0.1,
        "targeted": "least_likely",
    },
    "Square": {
        "num_queries": 10,
        "p_init": 0.3,
        "num_restarts": 3,
        "loss": "cross_entropy",
        "targeted": "least_likely",
        "rescale_schedule": True,
    },
    "TargetedAPGD": {
        "num_targets": 1,
        "num_steps": 2,
        "loss": "dlr",
        "eot_samples": 2,
        "shrinking": True,
        "ranking": "malt",
    },
    "TargetedFAB": {"num_targets": 1, "num_steps": 1},
    "VirtualAdversarial": {"num_steps": 3, "xi": 1.0},
}

# They need more classes: see `attacks/targeted_apgd_test.py`.
CHANGES_ELSEWHERE = {("TargetedAPGD", name) for name in ("num_targets", "loss", "ranking")}

# For the network of `forward_passes.model`, which has as many inputs and classes.
TEACHER = numpy_reference.keras_model()
SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)

CASES = {
    "attacks": {
        **ATTACKS,
        "AutoAttack": kr.attacks.AutoAttack(),
        "AutoAttack-all": kr.attacks.AutoAttack(version="plus"),
        "FMN-all": kr.attacks.FMN(num_steps=8, step_size=0.5, gamma=0.1, targeted=True),
        "GridSearch": kr.attacks.GridSearch(),
        "GridSearch-all": kr.attacks.GridSearch(3, targeted="least_likely", loss="margin"),
        "JSMA-all": kr.attacks.JSMA(theta=-0.5, gamma=0.145, targeted=True),
        "OnePixel-all": kr.attacks.OnePixel(
            num_pixels=3, population_size=5, num_steps=3, scale=0.8, targeted=True
        ),
        "BIM-targeted": kr.attacks.BIM(targeted="least_likely", step_size="2/255"),
        "PGD-all": kr.attacks.PGD(
            num_steps=4, step_size=0.01, random_start="gaussian", loss="kl", eot_samples=2
        ),
        "CarliniWagner-all": kr.attacks.CarliniWagner(
            num_steps=25, search_steps=4, initial_weight=0.1, confidence=1.0, targeted=True
        ),
        "DDN-all": kr.attacks.DDN(num_steps=8, gamma=0.1, initial_norm=2.0, targeted=True),
        "DeepFool-all": kr.attacks.DeepFool(num_classes=3, overshoot=0.1, num_steps=4),
        "EAD-all": kr.attacks.EAD(
            num_steps=8, beta=0.0, decision_rule="L1", learning_rate=0.05, targeted="least_likely"
        ),
        "PDPGD-all": kr.attacks.PDPGD(
            num_steps=8, step_size=0.2, dual_step_size=0.3, targeted="least_likely"
        ),
        "LBFGS-all": kr.attacks.LBFGS(
            initial_weight=0.1, search_steps=3, num_steps=20, targeted="least_likely"
        ),
        "SPSA-all": kr.attacks.SPSA(
            num_steps=3, num_samples=4, delta=0.05, random_start=True, targeted=True, loss="dlr"
        ),
        "SigmaZero-all": kr.attacks.SigmaZero(
            num_steps=8,
            step_size=0.5,
            sigma=0.01,
            threshold=0.2,
            threshold_factor=0.05,
            targeted=True,
        ),
        "Square-all": kr.attacks.Square(
            num_queries=9, p_init=0.2, num_restarts=2, loss="dlr", rescale_schedule=True
        ),
        "MomentumPGD-all": kr.attacks.MomentumPGD(decay=0.5, targeted=True, loss="dlr"),
        "TargetedAPGD-all": kr.attacks.TargetedAPGD(num_targets=4, num_steps=5, ranking="malt"),
        "Transfer": kr.attacks.Transfer(TEACHER, ATTACKS["BIM"]),
    },
    "threat_models": {
        **THREAT_MODELS,
        "L0-pixels": kr.threat_models.L0([1, 2], ([-1.0, 0.0], 1.0), per_pixel=True),
        "L1-free": kr.threat_models.L1("1/2", None),
        "L2-examples": kr.threat_models.L2(np.array([0.1, 0.2])),
        "Linf-schedule": kr.threat_models.Linf(SCHEDULE),
        "Affine": kr.threat_models.Affine(),
        "Affine-all": kr.threat_models.Affine(20, 0.0, 0.1, SCHEDULE, (-1.0, [0.5, 1.0])),
        "AtLayer": kr.threat_models.AtLayer("embedding", kr.L2(1.0, bounds=None)),
        "Joint": kr.threat_models.Joint("l2", ["a", "b"]),
        "Joint-all": kr.threat_models.Joint(kr.Linf([0.1, 0.2]), [0, 2], [(0, 2), None]),
        "Patch": kr.threat_models.Patch(2),
        "Patch-mask": kr.threat_models.Patch(mask=np.eye(3), epsilon=SCHEDULE, bounds=(-1.0, 1.0)),
        "Patch-pair": kr.threat_models.Patch((2, 1), epsilon="1/2", bounds=([0, -1.0], 1)),
        "PerInput": kr.threat_models.PerInput({"a": "linf", "b": kr.L2(SCHEDULE)}),
        "PerInput-list": kr.threat_models.PerInput([None, kr.L1(1.0, None)], epsilon=SCHEDULE),
        "Universal": kr.threat_models.Universal("linf"),
        "Universal-schedule": kr.threat_models.Universal(kr.L2(SCHEDULE, (-1.0, 1.0))),
    },
    "losses": {
        "DLR": kr.losses.DLR(reduction="none"),
        "LogitDistance": kr.losses.LogitDistance(name="pair"),
        "LogitKLDivergence": kr.losses.LogitKLDivergence(),
        "Margin": kr.losses.Margin(reduction="sum"),
        "ProbabilityMargin": kr.losses.ProbabilityMargin(),
        "SoftMargin": kr.losses.SoftMargin(),
        "SoftTargets": kr.losses.SoftTargets(20.0),
        "TemperatureCrossEntropy": kr.losses.TemperatureCrossEntropy(5.0, reduction="sum"),
    },
    "objectives": {
        "AWP": kr.objectives.AWP(gamma=0.02),
        "AWP-all": kr.objectives.AWP(SCHEDULE, kr.objectives.TRADES(beta=3.0)),
        "ARD": kr.objectives.ARD(TEACHER),
        "ARD-all": kr.objectives.ARD(TEACHER, temperature=5.0, alpha=SCHEDULE),
        "Adversarial": kr.objectives.Adversarial(),
        "AdversarialPool": kr.objectives.AdversarialPool(pool_size=16, refresh=2),
        "AdversarialPool-all": kr.objectives.AdversarialPool(SCHEDULE, pool_size=3, refresh=1),
        "Clean": kr.objectives.Clean(),
        "CleanLogitPairing": kr.objectives.CleanLogitPairing(),
        "DefensiveDistillation": kr.objectives.DefensiveDistillation(TEACHER, temperature=5.0),
        "Free": kr.objectives.Free(num_replays=2),
        "GaussianNoise": kr.objectives.GaussianNoise(SCHEDULE),
        "GradAlign": kr.objectives.GradAlign(),
        "GradAlign-all": kr.objectives.GradAlign(SCHEDULE, "mixed"),
        "IBP": kr.objectives.IBP(),
        "IBP-all": kr.objectives.IBP(SCHEDULE, regularization=SCHEDULE),
        "InputGradient": kr.objectives.InputGradient(),
        "InputGradient-all": kr.objectives.InputGradient(0.5, "trades", "l2_squared"),
        "Jacobian": kr.objectives.Jacobian(),
        "Jacobian-exact": kr.objectives.Jacobian(SCHEDULE, "adversarial", num_projections=3),
        "Kurakin": kr.objectives.Kurakin(),
        "Kurakin-all": kr.objectives.Kurakin(0.25, weight=SCHEDULE, random_epsilon=False),
        "LabelSmoothing": kr.objectives.LabelSmoothing(),
        "LabelSmoothing-all": kr.objectives.LabelSmoothing(SCHEDULE, kr.objectives.Mixed(0.3)),
        "LogitPairing": kr.objectives.LogitPairing(),
        "LogitSqueezing": kr.objectives.LogitSqueezing(),
        "MACER": kr.objectives.MACER(num_samples=4, weight=2.0),
        "MACER-all": kr.objectives.MACER(SCHEDULE, 3, weight=SCHEDULE, gamma=4.0, beta=2.0),
        "MART": kr.objectives.MART(),
        "MART-all": kr.objectives.MART(beta=SCHEDULE),
        "MMA": kr.objectives.MMA(),
        "MMA-all": kr.objectives.MMA(clean_weight=SCHEDULE, bisection_steps=3),
        "MTLIBP": kr.objectives.MTLIBP(),
        "MTLIBP-all": kr.objectives.MTLIBP(SCHEDULE, regularization=0.5),
        "Mixed": kr.objectives.Mixed(),
        "RSLAD": kr.objectives.RSLAD(TEACHER),
        "SABR": kr.objectives.SABR(),
        "SABR-all": kr.objectives.SABR(0.75, regularization=SCHEDULE),
        "SmoothAdv": kr.objectives.SmoothAdv(),
        "SmoothAdv-all": kr.objectives.SmoothAdv(SCHEDULE, num_samples=3),
        "TRADES": kr.objectives.TRADES(beta=2.0),
        "VAT": kr.objectives.VAT(weight=2.0),
        "WorstCaseLinear": kr.objectives.WorstCaseLinear(),
    },
    "layers": {
        "BitDepth": kr.layers.BitDepth(3),
        "FeatureSqueezingDetector": kr.layers.FeatureSqueezingDetector(
            numpy_reference.keras_model(), [kr.layers.BitDepth(2)], threshold=0.25
        ),
        "InputGuard": kr.layers.InputGuard(),
        "InputGuard-mending": kr.layers.InputGuard(
            ([-1.0, -0.5, 0.0], 1.0), outside="clip", non_finite="replace", integers="cast"
        ),
        "GroupSort": kr.layers.GroupSort(group_size=4),
        "JPEG": kr.layers.JPEG(),
        "JPEG-all": kr.layers.JPEG(
            50, chroma_subsampling=False, bpda=False, bounds=([-1.0, -0.5, 0.0], 1.0)
        ),
        "MedianSmoothing": kr.layers.MedianSmoothing(3),
        "OrthogonalConv2D": kr.layers.OrthogonalConv2D(
            4, 2, strides=2, padding="valid", use_bias=False, num_steps=9
        ),
        "PairedLogits": kr.layers.PairedLogits(weight=0.1),
        "RandomizedSmoothing": kr.layers.RandomizedSmoothing(
            numpy_reference.keras_model(), noise_stddev=0.5, num_samples=7, seed=3
        ),
        "SpectralDense": kr.layers.SpectralDense(4, num_steps=9),
        "Temperature": kr.layers.Temperature(2.5),
        "Thermometer": kr.layers.Thermometer(levels=5),
        "Thermometer-raw": kr.layers.Thermometer(bpda=False, bounds=(-1.0, 1.0)),
    },
    "callbacks": {
        "AdvTrain": kr.AdvTrain(),
        "AdvTrain-all": kr.AdvTrain(
            kr.L2(SCHEDULE),
            attack=ATTACKS["BIM"],
            objective="trades",
            warmup=100,
            seed=3,
            attack_dtype="bfloat16",
        ),
        "AtomicBackup": kr.callbacks.AtomicBackup("backup.npz", delete_checkpoint=False),
        "CollapseGuard": kr.CollapseGuard((np.zeros((4, 2), "float32"), np.zeros(4, "int32"))),
        "RobustValidation": kr.RobustValidation(
            (np.zeros((4, 2), "float32"), np.zeros(4, "int32")), every=2
        ),
    },
}


def all_cases():
    """Returns triples `(package, name, instance)`."""
    return [(package, *item) for package, group in CASES.items() for item in group.items()]


def public_classes(package):
    """Returns the public classes of a package, by name."""
    module = importlib.import_module(f"keras_robust.{package}")
    names = {*module.__all__, *(cls.__name__ for cls in getattr(module, "ALL", ()))}
    found = {name: getattr(module, name) for name in names}
    return {name: item for name, item in found.items() if inspect.isclass(item)}
