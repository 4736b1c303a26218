"""The summary of an evaluation: the fields of its report that follow from the results."""

import keras
import numpy as np
import scipy.stats

from keras_robust.evaluation.metrics.curve import median_distance
from keras_robust.evaluation.metrics.curve import robustness_curve
from keras_robust.evaluation.metrics.per_class import accuracy_per_class
from keras_robust.evaluation.metrics.per_class import confusion
from keras_robust.evaluation.row_results import RowResults
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
    # Members of different suites, or attacks outside of a suite, form no suite together.
    suites = {planned.suite for planned in plan if not planned.is_unbounded}
    epsilon = decimal_radius(threat_model).tolist()
    return {
        "threat_model": {
            "class_name": type(threat_model).__name__,
            "config": threat_model.get_config(),
            "epsilon": epsilon,
        },
        "suite": suites.pop() if len(suites) == 1 else None,
        "inputs": _describe_inputs(worst.x),
        **summarize_rows(RowResults.of(worst), worst.logits.shape[-1], epsilon, reports, proofs),
        "x": worst.x,
        "y": worst.y,
        "x_adv": worst.x_adv,
        "logits": worst.logits,
        "adv_logits": worst.adv_logits,
        "robust": worst.robust,
        "proved": worst.proved,
    }


def summarize_rows(rows, num_classes, epsilon, reports, proofs=()):
    """Returns the fields of the report that follow from the results of the examples.

    Args:
        rows: the `RowResults`.
        num_classes: int.
        epsilon: the radius, a number or a list.
        reports: list of `AttackReport`.
        proofs: list of `ProofReport`. Defaults to `()`.
    """
    size, robust = len(rows.y), int(rows.robust.sum())
    interval = scipy.stats.binomtest(robust, size).proportion_ci(0.95, method="exact")
    return {
        "num_examples": size,
        "num_classes": num_classes,
        "clean_accuracy": float(rows.correct.mean()),
        "robust_accuracy": robust / size,
        "confidence": (float(interval.low), float(interval.high)),
        "attacks": reports,
        "queries": sum(report.queries for report in reports),
        "certificates": list(proofs),
        # A mistake refutes a proof.
        "certified_accuracy": float((rows.proved & rows.robust).mean()) if proofs else None,
        "per_class": accuracy_per_class(rows.y, rows.correct, rows.robust, num_classes),
        "confusion": confusion(rows.y, rows.adv_predictions, num_classes),
        **_distance_fields(rows.distances, reports, epsilon),
    }


def _distance_fields(distances, reports, epsilon):
    """Returns the fields of the report on distances, empty unless a minimum-norm attack ran."""
    labels = [report.label for report in reports if report.is_unbounded]
    if not labels:
        return {}
    curve = robustness_curve(distances, epsilon=epsilon)
    return {
        "curve": {"attack": labels[0], **curve},
        "median_distance": median_distance(distances),
        "distances": distances,
    }


def _describe_inputs(x):
    """Returns the range of the inputs and their size, or `None` for several inputs."""
    if keras.tree.is_nested(x):
        return None
    # Text and pages show the radius beside this range, so that wrong units are visible.
    low, high = float(x.min()), float(x.max())
    return {"low": low, "high": high, "num_features": int(np.prod(x.shape[1:]))}
