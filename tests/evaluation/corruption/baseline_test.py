import dataclasses

import pytest

from keras_robust.evaluation.corruption.baseline import baseline_errors
from tests.evaluation.corruption.corruption_report_test import make
from tests.support import refusals

KINDS = ["fog", "snow"]


def errors(baseline, kinds=KINDS):
    return baseline_errors(baseline, kinds, "CIFAR-10-C", 4)


def test_a_list_counts_as_its_mean():
    found = errors({"snow": [0.1, 0.2, 0.3, 0.4, 0.5], "fog": 0.25, "frost": 1})
    assert found == {"clean": None, "fog": 0.25, "snow": pytest.approx(0.3)}
    assert list(found) == ["clean", *KINDS]


def test_the_clean_error_is_kept():
    assert errors({"clean": 0.125, "fog": 0, "snow": 1})["clean"] == 0.125


def test_a_report_has_its_errors():
    # Of 10 examples, 8 are right, 5 to 1 under fog, and 8 under snow.
    found = errors(make(), ["snow"])
    assert found == {"clean": pytest.approx(0.2), "snow": pytest.approx(0.2)}
    assert errors(make(), ["fog"])["fog"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"fog": 0.5}, "without snow"),
        ({"fog": 0.5, "snow": 50}, "shares from 0 to 1.*50 for snow"),
        ({"fog": 0.5, "snow": -0.1}, r"-0\.1 for snow"),
        ({"fog": 0.5, "snow": [0.1, 0.2]}, r"a list of 5.*\[0\.1, 0\.2\] for snow"),
        ({"fog": 0.5, "snow": float("nan")}, "nan for snow"),
        ({"fog": 0.5, "snow": 0.5, "clean": 2}, "2 for clean"),
        ({"fog": 0.5, "snow": "text"}, "'text' for snow"),
        (0.5, r"`baseline` must be a model.*baseline=0\.5"),
        (dataclasses.replace(make(), parameters="ImageNet-C"), "CIFAR-10-C.*ImageNet-C"),
        (dataclasses.replace(make(), num_classes=3), "with 4 classes.*num_classes=3"),
    ],
)
def test_what_is_no_baseline_is_refused(baseline, message):
    with refusals.assert_refused(message):
        errors(baseline)
