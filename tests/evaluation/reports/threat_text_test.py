import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.reports.schema import to_plain
from keras_robust.evaluation.reports.threat_text import describe_threat
from keras_robust.threat_models.decimal_radius import decimal_radius

FEATURES = {"low": -2.0, "high": 2.5, "num_features": 3072}


def _plain(ball):
    return to_plain(
        {
            "class_name": type(ball).__name__,
            "config": ball.get_config(),
            "epsilon": decimal_radius(ball).tolist(),
        }
    )


@pytest.mark.parametrize(
    "ball,inputs,expected",
    [
        (kr.Linf(25.5, bounds=(0, 255)), None, "Linf, epsilon 25.5 of 0 to 255 (10%)"),
        (kr.Linf("8/255"), FEATURES, "Linf, epsilon 8/255 of 0 to 1 (3.1%)"),
        (kr.Linf(8 / 255, bounds=(0, 255)), None, "Linf, epsilon 0.0313725 of 0 to 255 (0.012%)"),
        (kr.Linf([0.1, 0.3], bounds=None), None, "Linf, epsilon 0.1 to 0.3 without a box"),
        # Standardized channels.
        (kr.Linf(0.46, bounds=([-2.1, -2.0], [2.5, 2.3])), None, "of -2.1 to 2.5 (10% to 11%)"),
        (kr.Linf(0.045, bounds=None), FEATURES, "box, inputs from -2 to 2.5 (1%)"),
        # The diagonal of 3072 features has length 55.4 in L2.
        (kr.L2(0.5), FEATURES, "L2, epsilon 0.5 of 0 to 1 in 3,072 features (0.9%)"),
        (kr.L2(127.5, bounds=(0, 255)), FEATURES, "of 0 to 255 in 3,072 features (0.9%)"),
        (kr.L2(1.0, bounds=([0, 0], [1, 7])), FEATURES, "of 0 to 7 in 3,072 features (0.36%)"),
        (kr.L1(30.72), {**FEATURES, "num_features": 1}, "of 0 to 1 in 1 feature (3072%)"),
        (kr.L1(30.72), FEATURES, "L1, epsilon 30.72 of 0 to 1 in 3,072 features (1%)"),
        (kr.L2(0.5), None, "L2, epsilon 0.5 of 0 to 1"),
        (kr.threat_models.L0(5), FEATURES, "L0, epsilon 5 of 0 to 1"),
        (
            kr.threat_models.PerInput({"a": kr.Linf("8/255"), "b": kr.L2(0.5, bounds=None)}),
            None,
            "PerInput (a: Linf, epsilon 8/255 of 0 to 1 (3.1%); b: L2, epsilon 0.5 without a box)",
        ),
        (
            kr.threat_models.PerInput([None, kr.Linf(0.1)]),
            None,
            "PerInput (1: Linf, epsilon 0.1 of 0 to 1 (10%))",
        ),
        (kr.threat_models.Joint(kr.L2(0.5), ["a", "b"]), None, "Joint (L2, epsilon 0.5 of 0 to 1)"),
        (
            kr.threat_models.Universal("linf"),
            None,
            "Universal (Linf, epsilon 8/255 of 0 to 1 (3.1%))",
        ),
        (
            kr.threat_models.Affine(scale=0.1, epsilon=0.5),
            FEATURES,
            "rotation 30 degrees, translation 3 pixels, scale 0.1 of the size, epsilon 0.5",
        ),
        (
            kr.threat_models.Patch((5, 3)),
            FEATURES,
            "Patch, 5 x 3 pixels at any place, epsilon 1 of 0 to 1",
        ),
        (kr.threat_models.Patch(5), None, "Patch, 5 x 5 pixels at any place, epsilon 1 of 0 to 1"),
        (
            kr.threat_models.Patch(mask=[0, 1], epsilon="1/2", bounds=(0, 255)),
            None,
            "Patch, at a fixed place, epsilon 1/2 of 0 to 255",
        ),
    ],
)
def test_the_text_shows_radius_and_box(ball, inputs, expected):
    text = describe_threat(_plain(ball), inputs)
    assert text.endswith(expected) and text.startswith(type(ball).__name__)


@pytest.mark.parametrize(
    "bounds", ["01", [0], [0, "x"], [[0, 1], [1, 2, 3]], [1, 1], 3, [None, 1], [-1e308, 1e308]]
)
@pytest.mark.parametrize("epsilon", [0.1, [[0.1], [0.1]]])
def test_any_json_has_a_text(bounds, epsilon):
    threat_model = {"class_name": "Linf", "config": {"bounds": bounds}, "epsilon": epsilon}
    assert describe_threat(threat_model, FEATURES).startswith("Linf, epsilon 0.1 ")
    assert describe_threat({**threat_model, "config": {"parts": bounds}}).startswith("Linf, ")


def test_an_epsilon_that_is_no_fraction_is_not_shown():
    threat_model = {"class_name": "L2", "config": {"epsilon": "<b>"}, "epsilon": 0.1}
    assert describe_threat(threat_model) == "L2, epsilon 0.1 without a box"


def test_the_text_is_in_table_page_and_figure(tmp_path):
    x = np.array([[200.0, 20.0], [0.0, 255.0]], "float32")
    ball = kr.L2(25.5, bounds=(0, 255))
    report = kr.evaluate(lambda x: x, (x, [0, 1]), ball, "fgsm", minimum_norm=None)
    assert report.inputs == {"low": 0.0, "high": 255.0, "num_features": 2}
    expected = "L2, epsilon 25.5 of 0 to 255 in 2 features (7.1%)"
    assert expected in " ".join(str(report).split())
    report.save(tmp_path / "report.json")
    loaded = kr.RobustnessReport.load(tmp_path / "report.json")
    assert loaded == report
    loaded.save_html(tmp_path / "report.html")
    assert expected in (tmp_path / "report.html").read_text()
