import json

import pytest

from keras_robust.evaluation import CorruptionReport
from tests.evaluation.corruption.corruption_report_test import BASELINE
from tests.evaluation.corruption.corruption_report_test import make
from tests.support import refusals

PLAIN = make(baseline=BASELINE).to_dict()


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("spoil", ["drop", "text", "nan"])
def test_no_field_is_taken_on_trust(tmp_path, name, spoil):
    fields = dict(PLAIN)
    fields[name] = float("nan") if spoil == "nan" else [{"__class__": ["os.system"]}]
    if spoil == "drop":
        fields.pop(name)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(fields))
    with refusals.assert_refused("Expected "):
        CorruptionReport.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "unknown .*more"),
        ({"schema": "keras_robust.robustness_report"}, "schema 'keras_robust.corruption_report'"),
        ({"schema_version": 2}, "schema_version=2"),
        ({"schema_version": True}, "schema_version=True"),
        ({"kinds": ["fog", "rain"]}, "one of gaussian_noise, .*'rain'"),
        ({"kinds": ["fog", "fog"]}, "each of them once"),
        ({"kinds": ["fog"]}, "a row for each kind"),
        ({"parameters": "MNIST-C"}, "one of CIFAR-10-C, .*'MNIST-C'"),
        ({"num_correct": [[5, 4, 3, 2], [8] * 5]}, "a list of 5"),
        ({"num_correct": [[5, 4, 3, 2, 1], [8] * 4 + [11]]}, "counts up to num_examples 10"),
        ({"num_clean_correct": 11}, "counts up to num_examples 10"),
        ({"num_clean_correct": 7}, r"report.clean_accuracy to be the value for the counts, 0\.7"),
        ({"mean_accuracy": 0.56}, r"the counts, 0\.55.*0\.56"),
        ({"mean_corruption_error": None}, r"the counts, 1\.25.*None"),
        ({"confidence": [0.0, 1.0]}, "report.confidence"),
        ({"corruption_errors": [2.0]}, r"the counts, \[2\.0, 0\.5\]"),
        ({"baseline": {"clean": 0.1, "fog": 0.35}}, "one for each kind"),
        ({"baseline": {**BASELINE, "snow": None}}, "numbers for all kinds"),
        ({"baseline": {**BASELINE, "snow": 40}}, "at most 1.*40"),
        ({"accuracy": [[0.5] * 5] * 2}, "report.accuracy"),
    ],
)
def test_what_contradicts_the_counts_is_refused(change, message):
    CorruptionReport.from_dict(PLAIN)
    with refusals.assert_refused(message):
        CorruptionReport.from_dict({**PLAIN, **change})


def test_what_is_no_object_is_refused():
    with refusals.assert_refused("schema_version 1"):
        CorruptionReport.from_dict([1])
