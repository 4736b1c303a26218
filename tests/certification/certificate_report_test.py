import json

import matplotlib.image
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.certification.certificate_report import certified_curve
from tests.support import reports

RADII = [0.5, 0.0, 0.2, 0.9, 0.2]
LABELS = [0, 1, 2, 1, 0]
PREDICTIONS = [0, -1, 2, 0, 0]


def make(**changes):
    arguments = {
        "method": {"class_name": "Smoothing", "config": {"noise_stddev": 0.25, "alpha": None}},
        "norm": "L2",
        "num_examples": 5,
        "num_classes": 3,
        "clean_accuracy": 0.6,
        "abstained": 0.2,
        "average_radius": 0.9 / 5,
        "curve": {"radii": [0.0, 0.2, 0.5], "certified_accuracy": [0.6, 0.6, 0.2]},
        "labels": LABELS,
        "predictions": PREDICTIONS,
        "radii": RADII,
        "seed": 7,
        "versions": {"keras": "3"},
        "seconds": 1.5,
        **changes,
    }
    return kr.CertificateReport(**arguments)


def test_the_curve_counts_what_is_right_and_certified():
    found = certified_curve(np.equal(LABELS, PREDICTIONS), np.array(RADII))
    assert found == make().curve


def test_a_long_curve_is_thinned_and_stays_exact():
    rng = np.random.default_rng(0)
    correct, radii = rng.uniform(size=500) < 0.8, rng.uniform(size=500)
    curve = certified_curve(correct, radii, num_points=20)
    assert len(curve["radii"]) == 20 and curve["radii"][0] == 0.0
    assert curve["radii"][-1] == radii[correct].max()
    expected = [np.mean(correct & (radii >= radius)) for radius in curve["radii"]]
    np.testing.assert_allclose(curve["certified_accuracy"], expected)


def test_nothing_right():
    found = certified_curve(np.zeros(3, bool), np.ones(3))
    assert found == {"radii": [0.0], "certified_accuracy": [0.0]}


def test_certified_accuracy_includes_the_radius_itself():
    report = make()
    assert [report.certified_accuracy(r) for r in (0.0, 0.2, 0.21, 0.5, 0.6)] == [
        0.6, 0.6, 0.2, 0.2, 0.0,
    ]  # fmt: skip


def test_json_round_trip(tmp_path):
    report = make()
    report.save(tmp_path / "certificate.json")
    plain = json.loads((tmp_path / "certificate.json").read_text())
    assert plain["schema"] == "keras_robust.certificate_report"
    assert plain["schema_version"] == 1
    assert set(plain) == {"schema", "schema_version", *vars(report)}
    assert kr.CertificateReport.load(tmp_path / "certificate.json") == report


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="Expected a certificate with schema.*schema=None"):
        kr.CertificateReport.load(tmp_path / "other.json")


def test_the_table_has_the_numbers():
    text = str(make())
    assert "Smoothing, radii in L2, 5 examples" in text and "noise_stddev=0.25" in text
    assert "alpha" not in text
    assert "average radius 0.18, abstained 20.0%" in text
    rows = [line.split() for line in text.splitlines() if "%" in line]
    assert any("0.5" in row and "20.0%" in row for row in rows)
    assert any("0" in row and "60.0%" in row for row in rows)


def test_the_picture_is_the_curve(tmp_path):
    figure = make().plot(str(tmp_path / "curve.png"))
    (axes,) = figure.axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(x, [0.0, 0.2, 0.5, 0.5])
    np.testing.assert_array_equal(y, [0.6, 0.6, 0.2, 0.0])
    assert axes.lines[0].get_drawstyle() == "steps-pre"
    assert axes.get_xlabel() == "radius, L2"
    assert matplotlib.image.imread(tmp_path / "curve.png").ndim == 3


def test_the_picture_with_what_attacks_leave():
    figure = make(norm="Linf").plot(robustness=reports.make())
    (axes,) = figure.axes
    x, y = axes.lines[1].get_data()
    np.testing.assert_array_equal(x, reports.make().curve["epsilons"])
    np.testing.assert_array_equal(y, reports.make().curve["robust_accuracy"])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "certified: Smoothing",
        "under attack: FMN",
    ]
    with pytest.raises(ValueError, match="under L2 with a curve. Received: one under Linf$"):
        make().plot(robustness=reports.make())
    with pytest.raises(ValueError, match="Received: one under Linf without a curve"):
        make(norm="Linf").plot(robustness=reports.make(curve=None))
