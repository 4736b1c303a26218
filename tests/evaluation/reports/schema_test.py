import copy
import json

import numpy as np
import pytest

from keras_robust.evaluation.reports import schema
from tests.support import reports


def plain():
    return json.loads(json.dumps(reports.make().to_dict()))


def paths(value, path=()):
    """The path of every part of a structure."""
    yield path
    items = dict(enumerate(value)) if isinstance(value, list) else value
    for key, item in items.items() if isinstance(items, dict) else ():
        yield from paths(item, (*path, key))


def changed(path, value):
    """The report with another value at a path."""
    found = plain()
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


FREE = ("settings", "config")
PATHS = [path for path in paths(plain()) if path and not any(name in path[:-1] for name in FREE)]


def test_a_report_and_one_with_all_that_may_be_missing():
    schema.check_report(plain())
    bare = reports.make(
        suite=None, batch_size=None, queries=None, checks=[], curve=None, median_distance=None
    ).to_dict()
    schema.check_report({**bare, "per_class": None, "confusion": None, "attacks": []})


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_every_field_has_a_type(path):
    with pytest.raises(ValueError, match="Received: "):
        schema.check_report(changed(path, object()))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_no_field_takes_truth_values_or_nan(path):
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
        ("confidence", [0.9, 0.1], "the lower and then the upper end"),
        ("robust_accuracy", 0.9, "at most the clean accuracy 0.83333"),
        ("num_examples", 0, "num_examples to be an integer, at least 1"),
        ("num_examples", 6.0, "num_examples to be an integer"),
        ("num_examples", 5, r"attacks\[0\].num_attacked to be at most num_examples 5. Received"),
        ("seed", 1.5, "seed to be an integer. Received"),
        ("seconds", -1, "seconds to be a number, at least 0"),
        ("batch_size", 0, "batch_size to be an integer, at least 1"),
        ("median_distance", -0.5, "median_distance to be a number, at least 0"),
        ("warnings", [3], r"warnings\[0\] to be text. Received: report.warnings\[0\]=3"),
        ("versions", {"keras": 3}, "versions.keras to be text"),
        ("versions", {3: "3"}, "versions to be an object with text as keys"),
        ("per_class", [], "a row for each of 3 classes in order"),
        ("confusion", [[1, 2], [3, 4]], "3 rows of 3 counts"),
        ("confusion", [[1, 2, 3], [3, 4], [1, 2, 3]], "3 rows of 3 counts"),
        ("confusion", [[-1, 2, 3]] * 3, r"confusion\[0\]\[0\] to be an integer, at least 0"),
        ("curve.epsilons", [0.0, 0.03], "ascending epsilons"),
        ("curve.epsilons", [0.0, 0.03, 0.03], "ascending epsilons"),
        ("curve.robust_accuracy", [0.9, 0.5, 0.6], "that never rises"),
        ("checks.0.verdict", "fine", r"checks\[0\].verdict to be one of passed, failed, skipped"),
        ("attacks.0.accuracy", 2, r"attacks\[0\].accuracy to be a number, at least 0, at most 1"),
        ("attacks.0.queries", -1, r"attacks\[0\].queries to be an integer, at least 0"),
        ("attacks.0.settings.a", {"b": [{1, 2}]}, r"settings.a.b\[0\] to be what JSON can hold"),
        ("threat_model.epsilon", [[0.1], ["a"]], r"epsilon\[1\]\[0\] to be a number, at least 0"),
        ("seconds", 10**400, "seconds to be a number, at least 0. Received"),
        ("inputs.low", -1e308, "inputs.low to be a number, at least -3.40"),
        ("inputs.high", 1e308, "inputs.high to be a number, at least -3.40"),
        ("seed", 2**63, "seed to be an integer. Received"),
        ("queries", 10**400, "queries to be an integer, at least 0. Received"),
        ("threat_model.epsilon", 10**400, "epsilon to be a number, at least 0, at most 3.40"),
        ("threat_model.epsilon", [], "epsilon to be a list of at least one number"),
        ("threat_model.epsilon", [[0.1], []], r"epsilon\[1\] to be a list of at least one"),
        ("threat_model.epsilon", [[0.1, 0.2], [0.3]], "epsilon to be a list of equal shapes"),
        ("threat_model.epsilon", [0.1, [0.3]], "epsilon to be a list of equal shapes"),
        ("threat_model.epsilon", 0.9, "epsilon to be that of the arguments, 0.03137"),
        ("threat_model.epsilon", [0.0313725], "epsilon to be that of the arguments"),
        ("threat_model.config.epsilon", "0.9", "epsilon to be that of the arguments, 0.9. Recei"),
        ("threat_model.config.epsilon", "many", "Expected the arguments of Linf. .*'many'"),
        ("threat_model.config.bounds", [1, 0], "Expected the arguments of Linf. .*low < high"),
        ("threat_model.config.other", 3, "Expected the arguments of Linf. .*`other`"),
        ("threat_model.config.epsilon", {"class_name": "Popen"}, "'Popen', no threat model"),
        ("threat_model.class_name", "\x1b[2J", "class_name to be text without control"),
        ("threat_model.config.other", [["\u202e"]], "other.0..0. to be text without control"),
        ("suite", "\ud800", "suite to be text without control characters. Received"),
        ("versions", {"\x07": "3"}, "a name in report.versions to be text without control"),
        ("warnings", ["a\rb"], "to be text without control characters"),
        ("confidence", [0.9, 1.0], "confidence to be around the robust accuracy 0.333"),
        ("confidence", [0.0, 1.0], "the exact interval of 2 of 6 examples, .0.0432"),
        ("queries", 1, "queries to be those of the attacks, 2412. Received: report.queries=1"),
        ("suite", "AutoAttack standard", r"suite to be None for the attacks .'FGSM', 'PGD'."),
        ("threat_model.config.bounds", [5, 6], "inputs to be values in the bounds .5.0, 6.0"),
        ("robust_accuracy", 0.5, "that after the last attack, 0.333"),
        ("clean_accuracy", 0.9, "clean_accuracy to be that of the classes, 0.8333"),
        ("attacks.0.accuracy_so_far", 0.9, "at most 0.8333.*, that before it. Received"),
        ("attacks.1.accuracy_so_far", 0.6, "at most 0.5, that before it. Received"),
        ("attacks.0.accuracy", 0.4, "accuracy to be at least accuracy_so_far 0.5"),
        ("per_class.0.num_examples", 3, "per_class to be num_examples 6 in all"),
        ("per_class.0.clean_accuracy", None, "a clean_accuracy for each class with examples"),
        ("per_class.2.robust_accuracy", 0.5, "a robust_accuracy for each class with examples"),
        ("per_class.0.robust_accuracy", 0.0, "robust_accuracy to be that of the classes, 0.166"),
        ("confusion.0", [1, 1, 1], "confusion to be num_examples 6 in all"),
        ("confusion", [[1, 0, 0], [4, 1, 0], [0, 0, 0]], "the examples of each class in per_cl"),
    ],
)
def test_ranges(path, value, message):
    path = [int(key) if key.isdigit() else key for key in path.split(".")]
    with pytest.raises(ValueError, match=message):
        schema.check_report(changed(path, value))


def test_long_values_are_shortened_in_messages():
    with pytest.raises(ValueError) as error:
        schema.check_report(changed(["warnings"], "x" * 100_000))
    assert len(str(error.value)) < 300


def test_epsilon_may_be_one_number_per_feature():
    found = changed(["threat_model", "epsilon"], [[0.1, 0.2], [0.3, 0]])
    found["threat_model"]["config"]["epsilon"] = [[0.1, 0.2], [0.3, 0]]
    schema.check_report(found)
    found["threat_model"]["epsilon"][1][1] = 0.4
    with pytest.raises(ValueError, match="epsilon to be that of the arguments"):
        schema.check_report(found)


@pytest.mark.parametrize(
    "change", [{"schema_version": 1}, {"schema_version": 3}, {"schema": "other"}, {"schema": None}]
)
def test_other_schemas_are_refused(change):
    message = "Expected a report with schema 'keras_robust.robustness_report' and schema_version 2"
    with pytest.raises(ValueError, match=message) as error:
        schema.check_report({**plain(), **change})
    assert ("Version 1 lacks" in str(error.value)) == (change == {"schema_version": 1})


@pytest.mark.parametrize("value", [None, [], {}, 3, "text"])
def test_what_is_no_report_is_refused(value):
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
    expected = {
        "1": [0.5, [[1, 2]], 3, True],
        "b": {"c": "inf", "d": "nan", "e": None, "f": "text"},
    }
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def _nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [25, 5000])
@pytest.mark.parametrize("path", [("attacks", 0, "settings", "a"), ("threat_model", "epsilon")])
def test_what_is_nested_deep_is_refused(path, depth):
    with pytest.raises(ValueError, match="nested at most 20 deep"):
        schema.check_report(changed(path, _nested(depth)))


def test_no_count_is_larger_than_the_data(monkeypatch):
    def count(*limits):
        raise AssertionError(f"counts to {limits}")

    found = changed(["num_classes"], 10**12)
    monkeypatch.setattr(schema, "range", count, raising=False)
    with pytest.raises(ValueError, match="a row for each of 1000000000000 classes"):
        schema.check_report(found)
    with pytest.raises(ValueError, match="1000000000000 rows of 1000000000000 counts"):
        schema.check_report({**found, "per_class": None})
    with pytest.raises(ValueError, match="num_classes to be at most 100000 without per_class and"):
        schema.check_report({**found, "per_class": None, "confusion": None})
    few = {**plain(), "num_classes": 100_000, "per_class": None, "confusion": None}
    schema.check_report(few)


def test_a_threat_model_of_ones_own_may_have_any_arguments():
    own = {"class_name": "Wasserstein", "config": {"epsilon": "much"}, "epsilon": 0.3}
    schema.check_report({**plain(), "threat_model": own})


def test_a_certificate_is_told_who_reads_it():
    certificate = {"schema": "keras_robust.certificate_report", "schema_version": 1}
    with pytest.raises(ValueError, match=r"Expected a report.*kr.CertificateReport.load\(path\)"):
        schema.check_report(certificate)
