import json

import matplotlib.image
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.certification.certificate_report import certified_curve
from keras_robust.certification.certificate_report import round_radii
from tests.support import refusals
from tests.support import reports

RADII = [0.5, 0.0, 0.2, 0.9, 0.2]
LABELS = [0, 1, 2, 1, 0]
PREDICTIONS = [0, -1, 2, 0, 0]


def make(**changes):
    arguments = {
        "method": {"class_name": "Smoothing", "config": {"noise_stddev": 0.25}},
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


def test_the_curve_counts_correct_certified_examples():
    found = certified_curve(np.equal(LABELS, PREDICTIONS), np.array(RADII))
    assert found == make().curve
    assert found["certified_accuracy"][0] == 0.6


def test_a_long_curve_is_thinned_and_stays_exact():
    rng = np.random.default_rng(0)
    correct, radii = rng.uniform(size=500) < 0.8, rng.uniform(size=500)
    curve = certified_curve(correct, radii, num_points=20)
    assert len(curve["radii"]) == 20 and curve["radii"][0] == 0.0
    assert curve["radii"][-1] == radii[correct].max()
    expected = [np.mean(correct & (radii >= radius)) for radius in curve["radii"]]
    np.testing.assert_allclose(curve["certified_accuracy"], expected)


def test_no_correct_prediction():
    found = certified_curve(np.zeros(3, bool), np.ones(3))
    assert found == {"radii": [0.0], "certified_accuracy": [0.0]}


def test_certified_accuracy_includes_the_radius_itself():
    report = make()
    assert [report.certified_accuracy(r) for r in (0.0, 0.2, 0.21, 0.5, 0.6)] == [
        0.6, 0.6, 0.2, 0.2, 0.0,
    ]  # fmt: skip
    assert report.certified_accuracy("1/2") == 0.2
    assert report.certified_accuracy("51/100") == 0.0
    for wrong in ("half", -0.1, "1/0", None):
        with pytest.raises(ValueError, match=f"`radius` must be .* Received: radius={wrong!r}"):
            report.certified_accuracy(wrong)


def test_json_round_trip(tmp_path):
    report = make()
    report.save(tmp_path / "certificate.json")
    plain = json.loads((tmp_path / "certificate.json").read_text())
    assert plain["schema"] == "keras_robust.certificate_report"
    assert plain["schema_version"] == 2
    assert set(plain) == {"schema", "schema_version", *vars(report)}
    assert kr.CertificateReport.load(tmp_path / "certificate.json") == report


def test_certificates_of_version_1_are_read():
    report = make()
    old = {**report.to_dict(), "schema_version": 1}
    del old["broken_radii"], old["model_name"]
    assert kr.CertificateReport.from_dict(old) == report
    assert (report.broken_radii, report.model_name) == ([], "")


def test_outcomes_are_proved_broken_or_inconclusive():
    report = make(broken_radii=[0.8, None, None, 1.0, 0.3])
    # The labels and predictions differ for the third example; the second abstained.
    right = np.equal(LABELS, PREDICTIONS)
    for radius in (0.0, 0.2, 0.3, 0.6, 0.8, 2.0):
        found = report.outcomes(radius)
        for index, outcome in enumerate(found):
            broken = report.broken_radii[index]
            if PREDICTIONS[index] >= 0 and not right[index]:
                assert outcome == "broken"
            elif broken is not None and broken <= radius:
                assert outcome == "broken"
            elif right[index] and RADII[index] >= radius:
                assert outcome == "proved"
            else:
                assert outcome == "inconclusive"
        assert found.count("proved") / 5 == report.certified_accuracy(radius)
    assert make().outcomes(100.0).count("inconclusive") == 4


def test_the_table_of_a_complete_certificate_has_all_outcomes():
    text = str(make(broken_radii=[0.8, None, None, 1.0, 0.3]))
    rows = {line.split()[1]: line.split()[3::2] for line in text.splitlines() if "%" in line}
    assert rows["0.3"] == ["20.0%", "40.0%", "40.0%"]
    assert "inconclusive" in text and "inconclusive" not in str(make())


def test_the_table_has_the_radius_that_was_decided():
    method = {"class_name": "Complete", "config": {"radius": 30.0}}
    radii, broken = [0.0] * 5, [20.0, 25.0, None, 30.0, 30.0]
    curve = {"radii": [0.0], "certified_accuracy": [0.6]}
    table = make(method=method, radii=radii, curve=curve, broken_radii=broken).table()
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    # The fourth prediction is wrong, and the second one abstained.
    assert cells == [["0", "30"], ["60.0%", "0.0%"], ["20.0%", "80.0%"], ["20.0%", "20.0%"]]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with refusals.assert_refused(
        "Expected a certificate with schema.*schema=None", folder=tmp_path
    ):
        kr.CertificateReport.load(tmp_path / "other.json")


def test_the_table_has_the_numbers():
    text = str(make())
    assert "Smoothing, radii in L2, 5 examples" in text and "noise_stddev=0.25" in text
    assert "alpha" not in text
    assert "clean accuracy 60.0%, abstained 20.0%, average radius 0.18 in L2 (0 where" in text
    rows = [line.split() for line in text.splitlines() if "%" in line]
    assert [row[1::2] for row in rows[:6]] == [
        ["0", "60.0%"],
        ["0.1", "60.0%"],
        ["0.2", "60.0%"],
        ["0.3", "20.0%"],
        ["0.4", "20.0%"],
        ["0.5", "20.0%"],
    ]
    assert len(rows) == 7  # With the share that abstained.


def test_the_table_at_given_radii():
    table = make().table(["1/5", 0.6])
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [["1/5", "0.6"], ["60.0%", "0.0%"]]


def test_text_is_no_markup_and_no_formula(tmp_path):
    method = {"class_name": "$\\frac$[/x]\x1b[2J", "config": {"a": "[red]b", "c": list(range(999))}}
    report = make(method=method)
    text = str(report)
    assert "$\\frac$[/x]\\x1b[2J, radii in L2" in text and "\x1b" not in text
    assert "a=[red]b, c=[0, 1, 2, 3, 4, 5, ...]" in text
    curve = {**reports.make().curve, "attack": "$\\frac$"}
    figure = make(method=method, norm="Linf").plot(
        str(tmp_path / "a.png"), robustness=reports.make(curve=curve)
    )
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert words == ["certified: $\\frac$[/x]\\x1b[2J", "under attack: $\\frac$"]


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (0.0, [0.0]),
        (0.2197, [0.0, 0.05, 0.1, 0.15, 0.2]),
        (0.1, [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (0.7, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (0.95, [0.0, 0.2, 0.4, 0.6, 0.8]),
        (0.0042, [0.0, 0.001, 0.002, 0.003, 0.004]),
        (3.2, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]),
        (5e-324, [0.0, 5e-324]),
        (1e-310, [0.0, 2e-311, 4e-311, 6e-311, 8e-311, 1e-310]),
        (1.7e308, [0.0, 5e307, 1e308, 1.5e308]),
        (3.4e38, [0.0, 5e37, 1e38, 1.5e38, 2e38, 2.5e38, 3e38]),
    ],
)
def test_round_radii(largest, expected):
    assert round_radii(largest) == expected


def test_the_figure_is_written(tmp_path):
    figure = make().plot(str(tmp_path / "curve.png"))
    assert figure.axes[0].get_xlabel() == "radius, L2"
    assert matplotlib.image.imread(tmp_path / "curve.png").ndim == 3


def test_the_table_warns_of_predictions_at_chance():
    labels = [0, 1, 2] * 20
    # An abstention is no mistake, so only the other predictions count.
    for shift, expected in ((0, False), (1, True)):
        predictions = [(label + shift) % 3 for label in labels] + [-1] * 60
        report = make(
            num_examples=120, labels=labels * 2, predictions=predictions, radii=[0.0] * 120
        )
        assert ("Clean accuracy is at chance" in str(report)) is expected
