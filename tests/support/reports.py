"""Reports of evaluations that never ran, with every field filled in."""

import numpy as np

import keras_robust as kr
from keras_robust import evaluation

SETTINGS = {"num_steps": 50, "num_restarts": 10, "loss": "margin"}
Y = np.array([2, 0, 1, 1, 0, 2])
# Right and then wrong: rows 1, 3 and 4, from the most to the least confident mistake 4, 1, 3.
LOGITS = 3.0 * np.eye(3)[[2, 0, 0, 1, 0, 2]] + 0.1
ADV_LOGITS = np.array(
    [[0.0, 0, 9], [0, 2, 0], [9, 0, 0], [0, 0, 1], [0, 0, 3], [0, 0, 8]], "float32"
)


def make(**changes):
    """A report on six examples of three classes, of which all fields of the JSON are different."""
    arguments = {
        "threat_model": {
            "class_name": "Linf",
            "config": {"epsilon": "8/255", "bounds": [0, 1]},
            "epsilon": 0.0313725,
        },
        "num_examples": 6,
        "num_classes": 3,
        "clean_accuracy": 5 / 6,
        "robust_accuracy": 2 / 6,
        "confidence": (0.043271868292889565, 0.7772219044964505),
        "attacks": [
            evaluation.AttackReport(
                "PGD", SETTINGS, 4 / 6, 3 / 6, 0.25, 1.5, 6, 2345, robust=np.ones(6, bool)
            ),
            evaluation.AttackReport("FGSM", {"loss": None}, None, 2 / 6, 0.0, 0.5, 4, 67),
        ],
        "warnings": ["something is odd"],
        "seed": 7,
        "versions": {"keras": "3"},
        "seconds": 12.5,
        "suite": "Some suite",
        "batch_size": 32,
        "queries": 2412,
        "checks": [
            evaluation.Check("noise", -0.25, 0.125, "passed"),
            evaluation.Check("convergence", 0.375, 0.0625, "failed", "Use more steps."),
            evaluation.Check("transfer", None, None, "skipped", "No surrogate."),
        ],
        "curve": {
            "attack": "FMN",
            "epsilons": [0.0, 0.03, 0.06],
            "robust_accuracy": [0.9, 0.5, 0.1],
        },
        "median_distance": 0.0234,
        "per_class": [
            {"class": 0, "num_examples": 2, "clean_accuracy": 1.0, "robust_accuracy": 0.5},
            {"class": 1, "num_examples": 4, "clean_accuracy": 0.75, "robust_accuracy": 0.25},
            {"class": 2, "num_examples": 0, "clean_accuracy": None, "robust_accuracy": None},
        ],
        "inputs": {"low": 0.0625, "high": 0.9375, "num_features": 20},
        "confusion": [[1, 1, 0], [3, 1, 0], [0, 0, 0]],
        **changes,
    }
    return kr.RobustnessReport(**arguments)


def make_with_proofs(**changes):
    """The report after two certificates, which decided two of the five correct examples."""
    proofs = [
        evaluation.ProofReport("Interval", {"max_radius": 0.0314}, 5, 1, 1, 0.75),
        evaluation.ProofReport("Crown", {"norm": "Linf"}, 3, 0, 0, 2.25),
    ]
    return make(**{"certificates": proofs, "certified_accuracy": 1 / 6, **changes})


def make_with_images(shape=(6, 4, 5, 1), bounds=(0.0, 1.0), scale=1.0, **changes):
    """A report with arrays, in which rows 1, 3 and 4 are right and then wrong."""
    rng = np.random.default_rng(0)
    x = scale * rng.uniform(0.2, 0.8, size=shape)
    delta = scale * 0.1 * rng.uniform(-1.0, 1.0, size=shape)
    config = {"epsilon": 0.1, "bounds": bounds}
    arguments = {
        "threat_model": {"class_name": "Linf", "config": config, "epsilon": 0.1},
        "clean_accuracy": 5 / 6,
        "robust_accuracy": 2 / 6,
        "x": x,
        "y": Y,
        "x_adv": x + delta,
        "logits": LOGITS,
        "adv_logits": ADV_LOGITS,
        "distances": np.array([np.inf, 0.02, 0.0, 0.03, 0.1, 0.3]),
        **changes,
    }
    return make(**arguments)


def of_identity(num_classes):
    """The report of the identity on the unit vectors, all of them right."""
    x = np.eye(num_classes, dtype="float32")
    return kr.evaluate(lambda x: x, (x, np.arange(num_classes)), kr.Linf(0.1), "fgsm")
