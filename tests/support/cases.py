"""One instance or more of every public class, over which the conformance tests loop."""

import importlib
import inspect

import keras
import numpy as np

import keras_robust as kr

PACKAGES = ("attacks", "threat_models", "losses", "objectives", "callbacks")

# Bases that are not used themselves, and records.
NOT_A_CASE = {"Attack", "Found", "IterativeAttack", "Objective", "ThreatModel"}

ATTACKS = {
    "BIM": kr.attacks.BIM(num_steps=3),
    "FGSM": kr.attacks.FGSM(),
    "MomentumPGD": kr.attacks.MomentumPGD(num_steps=3),
    "MomentumPGD-random": kr.attacks.MomentumPGD(num_steps=2, random_start=True, num_restarts=2),
    "PGD": kr.attacks.PGD(num_steps=3),
    "PGD-margin": kr.attacks.PGD(num_steps=2, step_size="1/20", loss="margin", num_restarts=2),
}
RANDOM_ATTACKS = ("MomentumPGD-random", "PGD", "PGD-margin")

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
    "MomentumPGD": {**_STEPS, **_RANDOM, "random_start": True, "decay": 0.25},
    "PGD": {**_STEPS, **_RANDOM, "random_start": False},
}

SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)

CASES = {
    "attacks": {
        **ATTACKS,
        "BIM-targeted": kr.attacks.BIM(targeted="least_likely", step_size="2/255"),
        "PGD-all": kr.attacks.PGD(
            num_steps=4, step_size=0.01, random_start="gaussian", loss="kl", eot_samples=2
        ),
        "MomentumPGD-all": kr.attacks.MomentumPGD(decay=0.5, targeted=True, loss="dlr"),
    },
    "threat_models": {
        **THREAT_MODELS,
        "L1-free": kr.threat_models.L1("1/2", None),
        "L2-examples": kr.threat_models.L2(np.array([0.1, 0.2])),
        "Linf-schedule": kr.threat_models.Linf(SCHEDULE),
    },
    "losses": {
        "DLR": kr.losses.DLR(reduction="none"),
        "LogitDistance": kr.losses.LogitDistance(name="pair"),
        "LogitKLDivergence": kr.losses.LogitKLDivergence(),
        "Margin": kr.losses.Margin(reduction="sum"),
    },
    "objectives": {
        "Adversarial": kr.objectives.Adversarial(),
        "CleanLogitPairing": kr.objectives.CleanLogitPairing(),
        "LogitPairing": kr.objectives.LogitPairing(),
        "Mixed": kr.objectives.Mixed(),
        "TRADES": kr.objectives.TRADES(beta=2.0),
    },
    "callbacks": {
        "AdvTrain": kr.AdvTrain(),
        "AdvTrain-all": kr.AdvTrain(
            kr.L2(SCHEDULE), attack=ATTACKS["BIM"], objective="trades", warmup=100, seed=3
        ),
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
