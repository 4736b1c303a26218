"""What the JSON of a report looks like, as a table, and the check that a file does."""

import dataclasses
import math
import reprlib

import numpy as np
from scipy.stats import binomtest

from keras_robust import threat_models
from keras_robust.configurable import shown
from keras_robust.evaluation.checks.check import VERDICTS
from keras_robust.evaluation.reports.json_types import array_of
from keras_robust.evaluation.reports.json_types import dict_of
from keras_robust.evaluation.reports.json_types import integer
from keras_robust.evaluation.reports.json_types import json_value
from keras_robust.evaluation.reports.json_types import list_of
from keras_robust.evaluation.reports.json_types import number
from keras_robust.evaluation.reports.json_types import optional
from keras_robust.evaluation.reports.json_types import record
from keras_robust.evaluation.reports.json_types import refuse
from keras_robust.evaluation.reports.json_types import text
from keras_robust.evaluation.validation import decimal_radius
from keras_robust.threat_models.parsing import box_slack

SCHEMA = "keras_robust.robustness_report"
SCHEMA_VERSION = 2
# What no list of the classes proves.
_MOST_CLASSES = 100_000
CERTIFICATE = "keras_robust.certificate_report"


def to_plain(value):
    """Returns what JSON can hold: no arrays of a dataclass, no tuples, no infinite numbers.

    Other objects stay, so that writing them fails.
    """
    if dataclasses.is_dataclass(value):
        kept = (field.name for field in dataclasses.fields(value) if field.repr)
        return {name: to_plain(getattr(value, name)) for name in kept}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return to_plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value


def check_report(plain):
    """Raises a `ValueError` that names the first field that is not what version 2 has there."""
    plain = dict(plain) if isinstance(plain, dict) else {}
    found = plain.pop("schema", None), plain.pop("schema_version", None)
    if found != (SCHEMA, SCHEMA_VERSION):
        if found[0] == CERTIFICATE:
            raise ValueError(
                "Expected a report of `evaluate`. This is a certificate: "
                f"kr.CertificateReport.load(path) reads it. Received: schema={found[0]!r}"
            )
        old = " Version 1 lacks most of what is shown now: evaluate again." if found[1] == 1 else ""
        raise ValueError(
            f"Expected a report with schema {SCHEMA!r} and schema_version {SCHEMA_VERSION}.{old} "
            f"Received: schema={reprlib.repr(found[0])}, schema_version={reprlib.repr(found[1])}"
        )
    # Reports of earlier releases do not have it.
    _REPORT({"inputs": None, **plain}, "report")
    _check_together(plain)


def _verdict(value, path):
    if value not in VERDICTS:
        refuse(path, f"one of {', '.join(VERDICTS)}", value)


_SHARE = number(0, 1)
_COUNT = integer(0)
# Inputs are float32, and so are distances.
_LARGEST = float(np.finfo("float32").max)
SIZE, _VALUE = number(0, _LARGEST), number(-_LARGEST, _LARGEST)

_ATTACK = record(
    name=text,
    settings=dict_of(json_value),
    accuracy=optional(_SHARE),
    accuracy_so_far=_SHARE,
    zero_gradient=_SHARE,
    seconds=number(0),
    num_attacked=optional(_COUNT),
    queries=optional(_COUNT),
)
_CHECK = record(
    name=text,
    value=optional(number()),
    threshold=optional(number()),
    verdict=_verdict,
    advice=text,
)
_CLASS = record(
    **{
        "class": _COUNT,
        "num_examples": _COUNT,
        "clean_accuracy": optional(_SHARE),
        "robust_accuracy": optional(_SHARE),
    }
)
_REPORT = record(
    threat_model=record(class_name=text, config=dict_of(json_value), epsilon=array_of(SIZE)),
    num_examples=integer(1),
    num_classes=integer(1),
    clean_accuracy=_SHARE,
    robust_accuracy=_SHARE,
    confidence=list_of(_SHARE, 2),
    attacks=list_of(_ATTACK),
    warnings=list_of(text),
    seed=integer(),
    versions=dict_of(text),
    seconds=number(0),
    suite=optional(text),
    batch_size=optional(integer(1)),
    queries=optional(_COUNT),
    checks=list_of(_CHECK),
    curve=optional(record(attack=text, epsilons=list_of(SIZE), robust_accuracy=list_of(_SHARE))),
    median_distance=optional(SIZE),
    per_class=optional(list_of(_CLASS)),
    inputs=optional(record(low=_VALUE, high=_VALUE, num_features=integer(1))),
    confusion=optional(list_of(list_of(_COUNT))),
)


def _check_together(plain):
    """Checks what one field says about another."""
    curve = plain["curve"]
    low, high = plain["confidence"]
    if plain["robust_accuracy"] > plain["clean_accuracy"]:
        expected = f"at most the clean accuracy {plain['clean_accuracy']}"
        refuse("report.robust_accuracy", expected, plain["robust_accuracy"])
    if low > high:
        refuse("report.confidence", "the lower and then the upper end", plain["confidence"])
    if not low <= plain["robust_accuracy"] <= high:
        expected = f"around the robust accuracy {plain['robust_accuracy']}"
        refuse("report.confidence", expected, plain["confidence"])
    if curve is not None and not _is_curve(curve["epsilons"], curve["robust_accuracy"]):
        expected = "ascending epsilons, with a robust accuracy for each that never rises"
        refuse("report.curve", expected, curve)
    _check_inputs(plain.get("inputs"), plain["threat_model"])
    _check_threat_model(plain["threat_model"])
    _check_attacks(plain)
    _check_classes(plain)
    _check_confidence(plain)
    _check_sums(plain)


def _check_inputs(inputs, threat_model):
    if inputs is None:
        return
    if inputs["low"] > inputs["high"]:
        refuse("report.inputs", "the lower and then the upper end", inputs)
    bounds = _known(threat_model, "bounds")
    if bounds is None:
        return
    low, high = (np.asarray(bound, "float64") for bound in bounds)
    slack = box_slack(bounds, 1e-3)
    if inputs["low"] < np.min(low - slack) or inputs["high"] > np.max(high + slack):
        refuse("report.inputs", f"values in the bounds {shown(bounds)}", inputs)


def _check_confidence(plain):
    """Checks that the interval is the exact binomial one of that many robust examples."""
    size = plain["num_examples"]
    robust = round(plain["robust_accuracy"] * size)
    own = binomtest(robust, size).proportion_ci(0.95, method="exact")
    if not all(map(_is_near, plain["confidence"], own)):
        expected = f"the exact interval of {robust} of {size} examples, {list(map(float, own))}"
        refuse("report.confidence", expected, plain["confidence"])


def _check_sums(plain):
    """Checks the number of model calls, and that a suite has its first attack."""
    calls = [attack["queries"] for attack in plain["attacks"]]
    if plain["queries"] is not None and None not in calls and plain["queries"] != sum(calls):
        refuse("report.queries", f"those of the attacks, {sum(calls)}", plain["queries"])
    names = {attack["name"] for attack in plain["attacks"]}
    if (plain["suite"] or "").startswith("AutoAttack") and "APGD" not in names:
        refuse("report.suite", f"None for the attacks {sorted(names)}", plain["suite"])


def _is_curve(epsilons, accuracies):
    rises, falls = np.diff(epsilons) > 0, np.diff(accuracies) <= 0
    return len(epsilons) == len(accuracies) >= 1 and rises.all() and falls.all()


def _known(threat_model, name):
    """Returns the `radius` or the `bounds` that follow from the arguments, or `None`."""
    try:
        found = threat_models.from_untrusted_config(
            threat_model["class_name"], threat_model["config"]
        )
        if found is None:
            return None
        return decimal_radius(found) if name == "radius" else found.bounds
    except ValueError as error:
        raise ValueError(f"{error}, in report.threat_model.config") from error


def _check_threat_model(threat_model):
    """Checks that the radius follows from the arguments, where the class is known."""
    radius = _known(threat_model, "radius")
    epsilon = np.asarray(threat_model["epsilon"], "float64")
    is_same = radius is None or (
        radius.shape == epsilon.shape and np.allclose(radius, epsilon, rtol=1e-5, atol=0.0)
    )
    if not is_same:
        expected = f"that of the arguments, {reprlib.repr(radius.tolist())}"
        refuse("report.threat_model.epsilon", expected, threat_model["epsilon"])


def _check_attacks(plain):
    """Checks that the attacks, one after the other, lead to the robust accuracy."""
    left, size = plain["clean_accuracy"], plain["num_examples"]
    for index, attack in enumerate(plain["attacks"]):
        path, so_far = f"report.attacks[{index}]", attack["accuracy_so_far"]
        if (attack["num_attacked"] or 0) > size:
            refuse(f"{path}.num_attacked", f"at most num_examples {size}", attack["num_attacked"])
        if so_far > left:
            refuse(f"{path}.accuracy_so_far", f"at most {left}, that before it", so_far)
        if attack["accuracy"] is not None and attack["accuracy"] < so_far:
            refuse(f"{path}.accuracy", f"at least accuracy_so_far {so_far}", attack["accuracy"])
        left = so_far
    if plain["attacks"] and not _is_near(plain["robust_accuracy"], left):
        expected = f"that after the last attack, {left}"
        refuse("report.robust_accuracy", expected, plain["robust_accuracy"])


def _check_classes(plain):
    """Checks that the classes, all together, are the whole."""
    rows, confusion, num_classes = plain["per_class"], plain["confusion"], plain["num_classes"]
    if rows is None and confusion is None and num_classes > _MOST_CLASSES:
        expected = f"at most {_MOST_CLASSES} without per_class and confusion"
        refuse("report.num_classes", expected, num_classes)
    if rows is not None:
        _check_rows(rows, plain)
    if confusion is None:
        return
    if {len(confusion), *map(len, confusion)} != {num_classes}:
        refuse("report.confusion", f"{num_classes} rows of {num_classes} counts", confusion)
    totals = [sum(row) for row in confusion]
    if sum(totals) != plain["num_examples"]:
        refuse("report.confusion", f"num_examples {plain['num_examples']} in all", confusion)
    if rows is not None and totals != [row["num_examples"] for row in rows]:
        refuse("report.confusion", "the examples of each class in per_class", confusion)


def _check_rows(rows, plain):
    num_classes, size = plain["num_classes"], plain["num_examples"]
    if len(rows) != num_classes or any(row["class"] != place for place, row in enumerate(rows)):
        refuse("report.per_class", f"a row for each of {num_classes} classes in order", rows)
    if sum(row["num_examples"] for row in rows) != size:
        refuse("report.per_class", f"num_examples {size} in all", rows)
    for name in ("clean_accuracy", "robust_accuracy"):
        if any((row[name] is None) != (row["num_examples"] == 0) for row in rows):
            refuse("report.per_class", f"a {name} for each class with examples", rows)
        mean = sum((row[name] or 0.0) * row["num_examples"] for row in rows) / size
        if not _is_near(mean, plain[name]):
            refuse(f"report.{name}", f"that of the classes, {mean}", plain[name])


def _is_near(one, other):
    return abs(one - other) <= 1e-6
