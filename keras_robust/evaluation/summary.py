"""The summary of an evaluation: the fields of its report that follow from the results."""

import keras
import numpy as np
import scipy.stats

from keras_robust.evaluation.metrics.curve import median_distance
from keras_robust.evaluation.metrics.curve import robustness_curve
from keras_robust.evaluation.metrics.per_class import accuracy_per_class
from keras_robust.evaluation.metrics.per_class import confusion
from keras_robust.threat_models.decimal_radius import decimal_radius


def summarize(worst, threat_model, plan, reports, proofs=()):
    """Returns the fields of the report that follow from the results of the attacks.

    Args:
        worst: the `WorstCase` after all attacks.
        threat_model: a `ThreatModel`.
        plan: list of `PlannedAttack`.
        reports: list of `AttackReport`, one for each planned attack.
        proofs: list of `ProofReport`, one for each certificate. Defaults to `()`.

    Returns:
        A dict of arguments of `RobustnessReport`.
    """
    size, num_classes = worst.logits.shape
    robust = int(worst.robust.sum())
    interval = scipy.stats.binomtest(robust, size).proportion_ci(0.95, method="exact")
    # Members of different suites, or attacks outside of a suite, form no suite together.
    suites = {planned.suite for planned in plan if not planned.is_unbounded}
    epsilon = decimal_radius(threat_model).tolist()
    return {
        "threat_model": {
            "class_name": type(threat_model).__name__,
            "config": threat_model.get_config(),
            "epsilon": epsilon,
        },
        "num_examples": size,
        "num_classes": num_classes,
        "clean_accuracy": float(worst.correct.mean()),
        "robust_accuracy": robust / size,
        "confidence": (float(interval.low), float(interval.high)),
        "attacks": reports,
        "suite": suites.pop() if len(suites) == 1 else None,
        "queries": sum(report.queries for report in reports),
        "certificates": list(proofs),
        # A mistake refutes a proof.
        "certified_accuracy": float((worst.proved & worst.robust).mean()) if proofs else None,
        "inputs": _describe_inputs(worst.x),
        "per_class": accuracy_per_class(worst.y, worst.correct, worst.robust, num_classes),
        "confusion": confusion(worst.y, np.argmax(worst.adv_logits, axis=-1), num_classes),
        "x": worst.x,
        "y": worst.y,
        "x_adv": worst.x_adv,
        "logits": worst.logits,
        "adv_logits": worst.adv_logits,
        "robust": worst.robust,
        "proved": worst.proved,
        **_distance_fields(worst, plan, reports, epsilon),
    }


def _distance_fields(worst, plan, reports, epsilon):
    """Returns the fields of the report on distances, empty unless a minimum-norm attack ran."""
    pairs = zip(plan, reports, strict=True)
    labels = [report.label for planned, report in pairs if planned.is_unbounded]
    if not labels:
        return {}
    curve = robustness_curve(worst.distances, epsilon=epsilon)
    return {
        "curve": {"attack": labels[0], **curve},
        "median_distance": median_distance(worst.distances),
        "distances": worst.distances,
    }


def _describe_inputs(x):
    """Returns the range of the inputs and their size, or `None` for several inputs."""
    if keras.tree.is_nested(x):
        return None
    # Text and pages show the radius beside this range, so that wrong units are visible.
    low, high = float(x.min()), float(x.max())
    return {"low": low, "high": high, "num_features": int(np.prod(x.shape[1:]))}
