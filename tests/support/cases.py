"""One instance or more of every public class, over which the conformance tests loop."""

import importlib
import inspect

import keras
import numpy as np

import keras_robust as kr
from tests.support import numpy_reference

PACKAGES = ("attacks", "threat_models", "losses", "objectives", "callbacks")

# Bases that are not used themselves, and records.
NOT_A_CASE = {
    "Attack",
    "Found",
    "IterativeAttack",
    "Objective",
    "Regularised",
    "ThreatModel",
    "Wrapping",
}

ATTACKS = {
    "BIM": kr.attacks.BIM(num_steps=3),
    "FGSM": kr.attacks.FGSM(),
    "LBFGS": kr.attacks.LBFGS(num_steps=8),
    "MomentumPGD": kr.attacks.MomentumPGD(num_steps=3),
    "MomentumPGD-random": kr.attacks.MomentumPGD(num_steps=2, random_start=True, num_restarts=2),
    "NFGSM": kr.attacks.NFGSM(noise=1.0),
    "PGD": kr.attacks.PGD(num_steps=3),
    "PGD-margin": kr.attacks.PGD(num_steps=2, step_size="1/20", loss="margin", num_restarts=2),
    "RandomStartFGSM": kr.attacks.RandomStartFGSM(),
    "VirtualAdversarial": kr.attacks.VirtualAdversarial(xi=0.1),
}
RANDOM_ATTACKS = (
    "MomentumPGD-random",
    "NFGSM",
    "PGD",
    "PGD-margin",
    "RandomStartFGSM",
    "VirtualAdversarial",
)

THREAT_MODELS = {
    "L1": kr.threat_models.L1(1.0),
    "L2": kr.threat_models.L2(0.4),
    "Linf": kr.threat_models.Linf(0.1),
    "Linf-channels": kr.threat_models.Linf([0.05, 0.1], ([-0.5, 0.0], [1.0, 1.5])),
}

# For every constructor argument of an attack, a value that must change what the attack finds.
_STEPS = {"num_steps": 2, "step_size": "1/9", "targeted": "least_likely", "loss": "margin"}
_RANDOM = {"num_restarts": 4, "eot_samples": 2}
ARGUMENT_CHANGES = {
    "BIM": _STEPS,
    "FGSM": {"targeted": "least_likely", "loss": "margin"},
    "LBFGS": {
        "initial_weight": 3.0,
        "search_steps": 1,
        "num_steps": 2,
        "targeted": "least_likely",
    },
    "MomentumPGD": {**_STEPS, **_RANDOM, "random_start": True, "decay": 0.25},
    "NFGSM": {"noise": 2.0, "targeted": "least_likely", "loss": "margin"},
    "PGD": {**_STEPS, **_RANDOM, "random_start": False},
    "RandomStartFGSM": {"step_size": "1/20", "targeted": "least_likely", "loss": "margin"},
    "VirtualAdversarial": {"num_steps": 3, "xi": 1.0},
}

# For the network of `streams.model`, which has as many inputs and classes.
TEACHER = numpy_reference.keras_model()
SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)

CASES = {
    "attacks": {
        **ATTACKS,
        "BIM-targeted": kr.attacks.BIM(targeted="least_likely", step_size="2/255"),
        "PGD-all": kr.attacks.PGD(
            num_steps=4, step_size=0.01, random_start="gaussian", loss="kl", eot_samples=2
        ),
        "LBFGS-all": kr.attacks.LBFGS(
            initial_weight=0.1, search_steps=3, num_steps=20, targeted="least_likely"
        ),
        "MomentumPGD-all": kr.attacks.MomentumPGD(decay=0.5, targeted=True, loss="dlr"),
    },
    "threat_models": {
        **THREAT_MODELS,
        "L1-free": kr.threat_models.L1("1/2", None),
        "L2-examples": kr.threat_models.L2(np.array([0.1, 0.2])),
        "Linf-schedule": kr.threat_models.Linf(SCHEDULE),
        "AtLayer": kr.threat_models.AtLayer("embedding", kr.L2(1.0, bounds=None)),
        "Joint": kr.threat_models.Joint("l2", ["a", "b"]),
        "Joint-all": kr.threat_models.Joint(kr.Linf([0.1, 0.2]), [0, 2], [(0, 2), None]),
        "PerInput": kr.threat_models.PerInput({"a": "linf", "b": kr.L2(SCHEDULE)}),
        "PerInput-list": kr.threat_models.PerInput([None, kr.L1(1.0, None)], epsilon=SCHEDULE),
    },
    "losses": {
        "DLR": kr.losses.DLR(reduction="none"),
        "LogitDistance": kr.losses.LogitDistance(name="pair"),
        "LogitKLDivergence": kr.losses.LogitKLDivergence(),
        "Margin": kr.losses.Margin(reduction="sum"),
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
        "GradAlign": kr.objectives.GradAlign(),
        "GradAlign-all": kr.objectives.GradAlign(SCHEDULE, "mixed"),
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
        "MART": kr.objectives.MART(),
        "MART-all": kr.objectives.MART(beta=SCHEDULE),
        "MMA": kr.objectives.MMA(),
        "MMA-all": kr.objectives.MMA(clean_weight=SCHEDULE, bisection_steps=3),
        "Mixed": kr.objectives.Mixed(),
        "RSLAD": kr.objectives.RSLAD(TEACHER),
        "TRADES": kr.objectives.TRADES(beta=2.0),
        "VAT": kr.objectives.VAT(weight=2.0),
        "WorstCaseLinear": kr.objectives.WorstCaseLinear(),
    },
    "callbacks": {
        "AdvTrain": kr.AdvTrain(),
        "AdvTrain-all": kr.AdvTrain(
            kr.L2(SCHEDULE), attack=ATTACKS["BIM"], objective="trades", warmup=100, seed=3
        ),
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
