import dataclasses

from keras_robust.certification.certificate_texts import arguments_of
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
    figures = figures_of(report).split(", ")
    assert [float(text.split()[-1].strip("%")) for text in figures] == [87.5, 12.5, 0.25]
    assert figures_of(report) == "clean accuracy 87.5%, abstained 12.5%, average radius 0.25"
    expected = "noise_stddev=0.25, dtype=bfloat16, box=[0, 1, 2, 3, 4, 5, ...]"
    assert arguments_of(report) == expected
