"""What the JSON of a report looks like, as a table, and the check that a file does."""

import dataclasses
import math
import reprlib

import numpy as np

from keras_robust.evaluation.check import VERDICTS

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


def _refuse(path, expected, value):
    raise ValueError(f"Expected {path} to be {expected}. Received: {path}={reprlib.repr(value)}")


def _number(low=-math.inf, high=math.inf, kinds=(int, float), words="a number"):
    limits = [f"at least {low}"] * (low > -math.inf) + [f"at most {high}"] * (high < math.inf)
    expected = ", ".join([words, *limits])

    def check(value, path):
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not (right and low <= value <= high and abs(value) < math.inf):
            _refuse(path, expected, value)

    return check


def _integer(low=-math.inf):
    return _number(low, kinds=(int,), words="an integer")


def _text(value, path):
    if not isinstance(value, str):
        _refuse(path, "text", value)


def _verdict(value, path):
    if value not in VERDICTS:
        _refuse(path, f"one of {', '.join(VERDICTS)}", value)


def _optional(kind):
    def check(value, path):
        if value is not None:
            kind(value, path)

    return check


def _list(kind, length=None):
    expected = "a list" if length is None else f"a list of {length}"

    def check(value, path):
        if not isinstance(value, list) or length not in (None, len(value)):
            _refuse(path, expected, value)
        for index, item in enumerate(value):
            kind(item, f"{path}[{index}]")

    return check


def _dict(kind):
    def check(value, path):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            _refuse(path, "an object with text as keys", value)
        for key, item in value.items():
            kind(item, f"{path}.{key}")

    return check


def _record(**kinds):
    def check(value, path):
        if not isinstance(value, dict):
            _refuse(path, f"an object with the fields {list(kinds)}", value)
        missing = [name for name in kinds if name not in value]
        unknown = [name for name in value if name not in kinds]
        if missing or unknown:
            raise ValueError(
                f"Expected the fields of {path} to be {list(kinds)}. "
                f"Received: missing {missing}, unknown {unknown}"
            )
        for name, kind in kinds.items():
            kind(value[name], f"{path}.{name}")

    return check


def _json(value, path):
    if isinstance(value, dict):
        _dict(_json)(value, path)
    elif isinstance(value, list):
        _list(_json)(value, path)
    elif isinstance(value, float):
        _number()(value, path)
    elif value is not None and not isinstance(value, (bool, int, str)):
        _refuse(path, "what JSON can hold", value)


def _radius(value, path):
    kind = _list(_radius) if isinstance(value, list) else _number(0)
    kind(value, path)


_SHARE = _number(0, 1)
_COUNT = _integer(0)

_ATTACK = _record(
    name=_text,
    settings=_dict(_json),
    accuracy=_optional(_SHARE),
    accuracy_so_far=_SHARE,
    zero_gradient=_SHARE,
    seconds=_number(0),
    num_attacked=_optional(_COUNT),
    queries=_optional(_COUNT),
)
_CHECK = _record(
    name=_text,
    value=_optional(_number()),
    threshold=_optional(_number()),
    verdict=_verdict,
    advice=_text,
)
_CLASS = _record(
    **{
        "class": _COUNT,
        "num_examples": _COUNT,
        "clean_accuracy": _optional(_SHARE),
        "robust_accuracy": _optional(_SHARE),
    }
)
_REPORT = _record(
    threat_model=_record(class_name=_text, config=_dict(_json), epsilon=_radius),
    num_examples=_integer(1),
    num_classes=_integer(1),
    clean_accuracy=_SHARE,
    robust_accuracy=_SHARE,
    confidence=_list(_SHARE, 2),
    attacks=_list(_ATTACK),
    warnings=_list(_text),
    seed=_integer(),
    versions=_dict(_text),
    seconds=_number(0),
    suite=_optional(_text),
    batch_size=_optional(_integer(1)),
    queries=_optional(_COUNT),
    checks=_list(_CHECK),
    curve=_optional(
        _record(attack=_text, epsilons=_list(_number(0)), robust_accuracy=_list(_SHARE))
    ),
    median_distance=_optional(_number(0)),
    per_class=_optional(_list(_CLASS)),
    confusion=_optional(_list(_list(_COUNT))),
)


def _check_together(plain):
    """Checks what one field says about another."""
    size, classes, curve = plain["num_examples"], plain["num_classes"], plain["curve"]
    low, high = plain["confidence"]
    if low > high:
        _refuse("report.confidence", "the lower and then the upper end", plain["confidence"])
    if plain["robust_accuracy"] > plain["clean_accuracy"]:
        expected = f"at most the clean accuracy {plain['clean_accuracy']}"
        _refuse("report.robust_accuracy", expected, plain["robust_accuracy"])
    for index, attack in enumerate(plain["attacks"]):
        if (attack["num_attacked"] or 0) > size:
            path = f"report.attacks[{index}].num_attacked"
            _refuse(path, f"at most num_examples {size}", attack["num_attacked"])
    if curve is not None and not _is_curve(curve["epsilons"], curve["robust_accuracy"]):
        expected = "ascending epsilons, with a robust accuracy for each that never rises"
        _refuse("report.curve", expected, curve)
    _check_classes(plain["per_class"], plain["confusion"], classes)


def _is_curve(epsilons, accuracies):
    rises, falls = np.diff(epsilons) > 0, np.diff(accuracies) <= 0
    return len(epsilons) == len(accuracies) >= 1 and rises.all() and falls.all()


def _check_classes(per_class, confusion, num_classes):
    if per_class is not None and [row["class"] for row in per_class] != list(range(num_classes)):
        _refuse("report.per_class", f"a row for each of {num_classes} classes in order", per_class)
    if confusion is not None and {len(confusion), *map(len, confusion)} != {num_classes}:
        _refuse("report.confusion", f"{num_classes} rows of {num_classes} counts", confusion)
