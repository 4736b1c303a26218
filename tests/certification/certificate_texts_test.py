import dataclasses

import pytest

from keras_robust.certification.certificate_texts import arguments_of
from keras_robust.certification.certificate_texts import decided_radius
from keras_robust.certification.certificate_texts import figures_of
from keras_robust.certification.certificate_texts import title_of
from tests.certification.certificate_report_test import make


def test_the_texts_of_a_report():
    config = {"noise_stddev": 0.25, "radius": None, "dtype": "bfloat16", "box": list(range(99))}
    method = {"class_name": "Smoothing", "config": config}
    report = make(method=method, clean_accuracy=0.875, abstained=0.125, average_radius=0.25)
    # The name of the model is not always known, and comes from a file.
    assert title_of(report) == "Smoothing, radii in L2, 5 examples"
    named = dataclasses.replace(report, model_name="net\x1b\n1")
    assert title_of(named) == "net\\x1b 1: Smoothing, radii in L2, 5 examples"
    expected = "clean accuracy 87.5%, abstained 12.5%, average radius 0.25 in L2 (0 where wrong)"
    assert figures_of(report) == expected
    assert "0.25 in Linf (" in figures_of(dataclasses.replace(report, norm="Linf"))
    expected = "noise_stddev=0.25, dtype=bfloat16, box=[0, 1, 2, 3, 4, 5, ...]"
    assert arguments_of(report) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"radius": 30, "num_domains": 128}, 30.0),
        ({"max_radius": 0.1, "num_steps": 0}, 0.1),
        ({"max_radius": 0.1, "num_steps": 8}, None),
        ({"max_radius": None, "num_steps": 0}, None),
        ({"radius": None}, None),
        # Of a class of the user.
        ({"radius": "wide"}, None),
        ({"radius": True}, None),
        ({"radius": -1.0}, None),
    ],
)
def test_the_radius_that_was_tried_alone(config, expected):
    assert decided_radius(make(method={"class_name": "Own", "config": config})) == expected
