import dataclasses
import json

import numpy as np
import pytest
import scipy.stats

from keras_robust.evaluation import CorruptionReport

BASELINE = {"clean": 0.1, "fog": 0.35, "snow": 0.4}


def make(**changes):
    arguments = {
        "kinds": ["fog", "snow"],
        "num_examples": 10,
        "num_classes": 4,
        "num_clean_correct": 8,
        "num_correct": [[5, 4, 3, 2, 1], [8, 8, 8, 8, 8]],
        "parameters": "CIFAR-10-C",
        "bounds": (0.0, 1.0),
        "baseline": None,
        "warnings": [],
        "seed": 7,
        "versions": {"keras": "3"},
        "seconds": 1.5,
        **changes,
    }
    return CorruptionReport(**arguments)


def test_the_accuracies_are_shares_of_the_examples():
    report = make()
    np.testing.assert_allclose(report.accuracy, [[0.5, 0.4, 0.3, 0.2, 0.1], [0.8] * 5])
    assert report.clean_accuracy == 0.8
    assert report.mean_accuracy == pytest.approx(0.55)
    assert report.mean_error == pytest.approx(0.45)


def test_without_a_baseline_there_is_no_mce():
    report = make()
    assert report.corruption_errors is report.relative_corruption_errors is None
    assert report.mean_corruption_error is report.relative_mean_corruption_error is None
    assert report.mean_error > 0.0


def test_the_mce_is_the_mean_ratio_of_errors():
    report = make(baseline=BASELINE)
    # The mean errors are 0.7 and 0.2.
    np.testing.assert_allclose(report.corruption_errors, [2.0, 0.5])
    assert report.mean_corruption_error == pytest.approx(1.25)
    # Above the clean errors, 0.2 and 0.1: 0.5 / 0.25, and 0 / 0.3.
    np.testing.assert_allclose(report.relative_corruption_errors, [2.0, 0.0], atol=1e-12)
    assert report.relative_mean_corruption_error == pytest.approx(1.0)


def test_a_baseline_that_loses_nothing_gives_no_ratio():
    report = make(baseline={"clean": 0.5, "fog": 0.0, "snow": 0.4})
    assert report.corruption_errors == [None, pytest.approx(0.5)]
    assert report.relative_corruption_errors == [None, None]
    assert report.mean_corruption_error is report.relative_mean_corruption_error is None


def test_rounding_is_no_loss_of_a_baseline():
    # The mean of five equal errors is not always that error to the last bit.
    rounded = float(np.mean([1.0 - 0.02] * 5))
    baseline = {"clean": np.nextafter(rounded, 0.0), "fog": rounded, "snow": rounded}
    assert make(baseline=baseline).relative_corruption_errors == [None, None]


def test_without_the_clean_error_of_the_baseline_nothing_is_relative():
    report = make(baseline={**BASELINE, "clean": None})
    assert report.mean_corruption_error == pytest.approx(1.25)
    assert report.relative_mean_corruption_error is None


def test_the_interval_is_that_of_as_many_predictions():
    report = make(num_correct=[[6] * 5, [4] * 5])
    interval = scipy.stats.binomtest(5, 10).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(report.confidence, interval)
    for count, ends in ((0, (0.0, 0.3085)), (10, (0.6915, 1.0))):
        found = make(num_correct=[[count] * 5] * 2).confidence
        np.testing.assert_allclose(found, ends, atol=1e-4)


def test_a_file_gives_the_same_report(tmp_path):
    for report in (make(), make(baseline=BASELINE, warnings=["x"], bounds=(0.0, 255.0))):
        report.save(tmp_path / "report.json")
        assert CorruptionReport.load(tmp_path / "report.json") == report
        plain = json.loads((tmp_path / "report.json").read_text())
        assert plain["mean_accuracy"] == pytest.approx(0.55)
        assert plain["accuracy"][0] == [0.5, 0.4, 0.3, 0.2, 0.1]


def test_a_report_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError, match="seed"):
        make().seed = 3


def test_the_table_without_a_baseline():
    text = str(make(warnings=["Clean accuracy is at chance."]))
    assert "Accuracy under corruptions as in CIFAR-10-C, 10 examples" in text
    assert "fog" in text and "│ 50.0% │ 40.0% │ 30.0% │ 20.0% │ 10.0% │ 30.0% │" in text
    assert "│ mean     │ 65.0% │ 60.0% │ 55.0% │ 50.0% │ 45.0% │ 55.0% │" in text
    assert "clean accuracy 80.0%" in text and "Clean accuracy is at chance." in text
    assert "mCE" not in text and "robust accuracy" not in text.lower()
    assert max(map(len, text.splitlines())) <= 100


def test_the_table_with_a_baseline():
    text = str(make(baseline={**BASELINE, "clean": None}))
    assert "2.000 │" in text and "0.500 │" in text and "1.250 │" in text
    assert "mCE 1.250, relative mCE -" in text
