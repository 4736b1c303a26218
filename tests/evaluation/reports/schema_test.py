import copy
import json

import numpy as np
import pytest

from keras_robust.evaluation.reports import schema
from tests.support import refusals
from tests.support import reports


def plain():
    return json.loads(json.dumps(reports.make_with_proofs().to_dict()))


def paths(value, path=()):
    """Yields the path of every part of a structure."""
    yield path
    items = dict(enumerate(value)) if isinstance(value, list) else value
    for key, item in items.items() if isinstance(items, dict) else ():
        yield from paths(item, (*path, key))


def changed(path, value):
    """Returns the report with another value at a path."""
    found = plain()
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


FREE = ("settings", "config")
PATHS = [path for path in paths(plain()) if path and not any(name in path[:-1] for name in FREE)]


def test_reports_with_and_without_optional_fields():
    schema.check_report(plain())
    bare = reports.make(
        suite=None, batch_size=None, queries=None, checks=[], curve=None, median_distance=None
    ).to_dict()
    assert bare["schema_version"] == 2
    schema.check_report({**bare, "per_class": None, "confusion": None, "attacks": []})


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_every_field_has_a_type(path):
    with pytest.raises(ValueError, match="Received: "):
        schema.check_report(changed(path, object()))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_no_field_accepts_bools_or_nan(path):
    for wrong in (True, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Received: "):
            schema.check_report(changed(path, wrong))


RECORDS = [
    (),
    ("threat_model",),
    ("attacks", 1),
    ("checks", 0),
    ("curve",),
    ("per_class", 2),
    ("certificates", 1),
]


@pytest.mark.parametrize("path", RECORDS, ids=str)
def test_missing_and_unknown_fields_are_named(path):
    for change in ("missing", "unknown"):
        found = plain()
        inner = found
        for key in path:
            inner = inner[key]
        name = [key for key in inner if not key.startswith("schema")][-1]
        if change == "missing":
            del inner[name]
        else:
            inner["new"] = 3
        names = {"missing": name, "unknown": "new"}[change]
        with pytest.raises(ValueError, match=rf"Received: .*{change} \['{names}'\]"):
            schema.check_report(found)


@pytest.mark.parametrize(
    "path,value,message",
    [
        ("clean_accuracy", 1.01, "clean_accuracy to be a number, at least 0, at most 1. Received"),
        ("clean_accuracy", "1", "Received: report.clean_accuracy='1'"),
        ("confidence", [0.1], "confidence to be a list of 2"),
        ("num_examples", 0, "num_examples to be an integer, at least 1"),
        ("num_examples", 6.0, "num_examples to be an integer"),
        ("seed", 1.5, "seed to be an integer. Received"),
        ("seconds", -1, "seconds to be a number, at least 0"),
        ("batch_size", 0, "batch_size to be an integer, at least 1"),
        ("median_distance", -0.5, "median_distance to be a number, at least 0"),
        ("warnings", [3], r"warnings\[0\] to be text. Received: report.warnings\[0\]=3"),
        ("versions", {"keras": 3}, "versions.keras to be text"),
        ("versions", {3: "3"}, "versions to be an object with text as keys"),
        ("confusion", [[-1, 2, 3]] * 3, r"confusion\[0\]\[0\] to be an integer, at least 0"),
        ("checks.0.verdict", "fine", r"checks\[0\].verdict to be one of passed, failed, skipped"),
        ("attacks.0.accuracy", 2, r"attacks\[0\].accuracy to be a number, at least 0, at most 1"),
        ("attacks.0.queries", -1, r"attacks\[0\].queries to be an integer, at least 0"),
        ("attacks.0.settings.a", {"b": [{1, 2}]}, r"settings.a.b\[0\] to be what JSON can hold"),
        ("threat_model.epsilon", [[0.1], ["a"]], r"epsilon\[1\]\[0\] to be a number, at least 0"),
        ("seconds", 10**400, "seconds to be a number, at least 0. Received"),
        ("inputs.low", -1e308, r"inputs.low to be a number, at least -3.4028234663852886e\+38"),
        ("inputs.high", 1e308, r"inputs.high to be a number, at least -3.4028234663852886e\+38"),
        ("seed", 2**63, "seed to be an integer. Received"),
        ("queries", 10**400, "queries to be an integer, at least 0. Received"),
        (
            "threat_model.epsilon",
            10**400,
            r"epsilon to be a number, at least 0, at most 3.4028234663852886e\+38",
        ),
        ("threat_model.epsilon", [], "epsilon to be a list of at least one number"),
        ("threat_model.epsilon", [[0.1], []], r"epsilon\[1\] to be a list of at least one"),
        ("threat_model.epsilon", [[0.1, 0.2], [0.3]], "epsilon to be a list of equal shapes"),
        ("threat_model.epsilon", [0.1, [0.3]], "epsilon to be a list of equal shapes"),
        ("threat_model.class_name", "\x1b[2J", "class_name to be text without control"),
        ("threat_model.config.other", [["\u202e"]], "other.0..0. to be text without control"),
        ("suite", "\ud800", "suite to be text without control characters. Received"),
        ("versions", {"\x07": "3"}, "a name in report.versions to be text without control"),
        ("warnings", ["a\rb"], "to be text without control characters"),
    ],
)
def test_ranges(path, value, message):
    path = [int(key) if key.isdigit() else key for key in path.split(".")]
    with refusals.assert_refused(message):
        schema.check_report(changed(path, value))


def test_fields_must_fit_together():
    with refusals.assert_refused("at most the clean accuracy 0.8333333333333334"):
        schema.check_report(changed(["robust_accuracy"], 0.9))


def test_long_values_are_shortened_in_messages():
    with pytest.raises(ValueError) as error:
        schema.check_report(changed(["warnings"], "x" * 100_000))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "change", [{"schema_version": 1}, {"schema_version": 4}, {"schema": "other"}, {"schema": None}]
)
def test_other_schemas_are_refused(change):
    message = "schema 'keras_robust.robustness_report' and schema_version 2 or 3"
    with pytest.raises(ValueError, match=message) as error:
        schema.check_report({**plain(), **change})
    assert ("Version 1 lacks" in str(error.value)) == (change == {"schema_version": 1})


@pytest.mark.parametrize("value", [None, [], {}, 3, "text"])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="Received: schema=None, schema_version=None"):
        schema.check_report(value)


def test_the_argument_is_left_alone():
    before = plain()
    found = copy.deepcopy(before)
    schema.check_report(found)
    assert found == before


def test_plain_values():
    found = schema.to_plain(
        {
            1: (np.float32(0.5), np.array([[1, 2]]), np.int64(3), np.bool_(True)),
            "b": {"c": float("inf"), "d": np.nan, "e": None, "f": "text"},
        }
    )
    assert found == {
        "1": [0.5, [[1, 2]], 3, True],
        "b": {"c": "inf", "d": "nan", "e": None, "f": "text"},
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def _nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [25, 5000])
@pytest.mark.parametrize("path", [("attacks", 0, "settings", "a"), ("threat_model", "epsilon")])
def test_deep_nesting_is_refused(path, depth):
    with refusals.assert_refused("nested at most 20 deep"):
        schema.check_report(changed(path, _nested(depth)))


def test_the_error_for_a_certificate_names_its_reader():
    certificate = {"schema": "keras_robust.certificate_report", "schema_version": 1}
    with pytest.raises(ValueError, match=r"Expected a report.*kr.CertificateReport.load\(path\)"):
        schema.check_report(certificate)
