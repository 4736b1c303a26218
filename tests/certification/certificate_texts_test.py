import dataclasses

from keras_robust.certification.certificate_texts import arguments_of
from keras_robust.certification.certificate_texts import figures_of
from keras_robust.certification.certificate_texts import title_of
from tests.certification.certificate_report_test import make


def test_the_title_has_the_name_of_the_model_if_there_is_one():
    assert title_of(make()) == "Smoothing, radii in L2, 5 examples"
    named = dataclasses.replace(make(), model_name="net\x1b\n1")
    assert title_of(named) == "net\\x1b 1: Smoothing, radii in L2, 5 examples"


def test_the_figures_are_those_of_the_report():
    report = make(clean_accuracy=0.875, abstained=0.125, average_radius=0.25)
    assert figures_of(report) == "clean accuracy 87.5%, abstained 12.5%, average radius 0.25"


def test_arguments_that_were_not_given_are_left_out():
    config = {"noise_stddev": 0.25, "radius": None, "dtype": "bfloat16", "box": list(range(99))}
    report = make(method={"class_name": "Smoothing", "config": config})
    expected = "noise_stddev=0.25, dtype=bfloat16, box=[0, 1, 2, 3, 4, 5, ...]"
    assert arguments_of(report) == expected
