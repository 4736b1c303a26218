"""What the JSON of a report looks like, as a table, and the check that a file does."""

import dataclasses
import math

import numpy as np

from keras_robust.evaluation.check import VERDICTS
from keras_robust.evaluation.kinds import dict_of
from keras_robust.evaluation.kinds import integer
from keras_robust.evaluation.kinds import json_value
from keras_robust.evaluation.kinds import list_of
from keras_robust.evaluation.kinds import number
from keras_robust.evaluation.kinds import optional
from keras_robust.evaluation.kinds import record
from keras_robust.evaluation.kinds import refuse
from keras_robust.evaluation.kinds import text

SCHEMA = "keras_robust.robustness_report"
SCHEMA_VERSION = 2


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
        old = " Version 1 lacks most of what is shown now: evaluate again." if found[1] == 1 else ""
        raise ValueError(
            f"Expected a report with schema {SCHEMA!r} and schema_version {SCHEMA_VERSION}.{old} "
            f"Received: schema={found[0]!r}, schema_version={found[1]!r}"
        )
    _REPORT(plain, "report")
    _check_together(plain)


def _verdict(value, path):
    if value not in VERDICTS:
        refuse(path, f"one of {', '.join(VERDICTS)}", value)


def _radius(value, path):
    kind = list_of(_radius) if isinstance(value, list) else number(0)
    kind(value, path)


_SHARE = number(0, 1)
_COUNT = integer(0)

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
    threat_model=record(class_name=text, config=dict_of(json_value), epsilon=_radius),
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
    curve=optional(
        record(attack=text, epsilons=list_of(number(0)), robust_accuracy=list_of(_SHARE))
    ),
    median_distance=optional(number(0)),
    per_class=optional(list_of(_CLASS)),
    confusion=optional(list_of(list_of(_COUNT))),
)


def _check_together(plain):
    """Checks what one field says about another."""
    size, classes, curve = plain["num_examples"], plain["num_classes"], plain["curve"]
    low, high = plain["confidence"]
    if low > high:
        refuse("report.confidence", "the lower and then the upper end", plain["confidence"])
    if plain["robust_accuracy"] > plain["clean_accuracy"]:
        expected = f"at most the clean accuracy {plain['clean_accuracy']}"
        refuse("report.robust_accuracy", expected, plain["robust_accuracy"])
    for index, attack in enumerate(plain["attacks"]):
        if (attack["num_attacked"] or 0) > size:
            path = f"report.attacks[{index}].num_attacked"
            refuse(path, f"at most num_examples {size}", attack["num_attacked"])
    if curve is not None and not _is_curve(curve["epsilons"], curve["robust_accuracy"]):
        expected = "ascending epsilons, with a robust accuracy for each that never rises"
        refuse("report.curve", expected, curve)
    _check_classes(plain["per_class"], plain["confusion"], classes)


def _is_curve(epsilons, accuracies):
    rises, falls = np.diff(epsilons) > 0, np.diff(accuracies) <= 0
    return len(epsilons) == len(accuracies) >= 1 and rises.all() and falls.all()


def _check_classes(per_class, confusion, num_classes):
    if per_class is not None and [row["class"] for row in per_class] != list(range(num_classes)):
        refuse("report.per_class", f"a row for each of {num_classes} classes in order", per_class)
    if confusion is not None and {len(confusion), *map(len, confusion)} != {num_classes}:
        refuse("report.confusion", f"{num_classes} rows of {num_classes} counts", confusion)
