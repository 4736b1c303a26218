import numpy as np
import pytest

from keras_robust.certification.certificate_figure import draw_certificate
from tests.certification.certificate_report_test import make
from tests.support import reports

CONFIG = {"noise_stddev": 0.25, "num_samples": 1000, "alpha": 0.001, "radius": None}


def test_the_curve():
    (axes,) = draw_certificate(make()).axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(x, [0.0, 0.2, 0.5, 0.5])
    np.testing.assert_array_equal(y, [0.6, 0.6, 0.2, 0.0])
    assert axes.lines[0].get_drawstyle() == "steps-pre"
    assert axes.get_xlabel() == "radius, L2"


def test_a_radius_that_was_tried_alone_belongs_to_the_curve():
    report = make(method={"class_name": "Complete", "config": {"radius": 0.75}})
    (axes,) = draw_certificate(report).axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(x, [0.0, 0.2, 0.5, 0.5, 0.75])
    np.testing.assert_array_equal(y, [0.6, 0.6, 0.2, 0.0, 0.0])


def test_title_and_caption_say_what_was_certified_and_how():
    method = {"class_name": "Smoothing", "config": CONFIG}
    figure = draw_certificate(make(method=method, model_name="tiny_$x$"))
    (axes,) = figure.axes
    assert axes.get_title() == "tiny_$x$: Smoothing, radii in L2, 5 examples"
    assert not axes.title.get_parse_math()
    assert figure.get_supxlabel().splitlines() == [
        "clean accuracy 60.0%, abstained 20.0%, average radius 0.18 in L2 (0 where wrong)",
        "noise_stddev=0.25, num_samples=1000, alpha=0.001",
    ]
    # Long texts have several lines.
    config = {f"argument_{index}": 10**6 for index in range(9)}
    report = make(method={"class_name": "Own", "config": config}, model_name="word " * 30)
    figure = draw_certificate(report)
    lines = [*figure.axes[0].get_title().splitlines(), *figure.get_supxlabel().splitlines()]
    assert len(lines) >= 6 and max(map(len, lines)) <= 80


def test_the_curve_of_a_robustness_report():
    (axes,) = draw_certificate(make(norm="Linf"), reports.make()).axes
    x, y = axes.lines[1].get_data()
    np.testing.assert_array_equal(x, reports.make().curve["epsilons"])
    np.testing.assert_array_equal(y, reports.make().curve["robust_accuracy"])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "certified: Smoothing",
        "under attack: FMN",
    ]
    with pytest.raises(ValueError, match="under L2 with a curve. Received: a report under Linf$"):
        draw_certificate(make(), reports.make())
    with pytest.raises(ValueError, match="Received: a report under Linf without a curve"):
        draw_certificate(make(norm="Linf"), reports.make(curve=None))
