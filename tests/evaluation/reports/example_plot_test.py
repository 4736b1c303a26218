import io
import re
import sys

import matplotlib.image
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.reports import example_plot
from tests.support import refusals
from tests.support import tiers
from tests.support.reports import ADV_LOGITS
from tests.support.reports import Y
from tests.support.reports import make_with_images

PROBABILITY = {1: np.exp(2) / (np.exp(2) + 2), 3: np.e / (np.e + 2), 4: np.exp(3) / (np.exp(3) + 2)}


def _rows(figure):
    return np.array(figure.axes).reshape(-1, 3)


def test_rows_are_the_confident_mistakes_first():
    # Rows 0, 2 (a clean mistake) and 5 are not broken; a logit of 9 is more confident than 8.
    rows = _rows(kr.evaluation.draw_examples(make_with_images(), num_examples=5))
    labels = [row[0].get_ylabel() for row in rows]
    assert labels == [f"true class {Y[index]}" for index in (4, 1, 3, 0, 2)]


def test_captions_are_classes_and_probabilities():
    rows = _rows(kr.evaluation.draw_examples(make_with_images(), num_examples=3))
    before = np.exp(3.1) / (np.exp(3.1) + 2 * np.exp(0.1))
    for row, index in zip(rows, (4, 1, 3), strict=True):
        assert row[0].get_title() == f"class {Y[index]}: {before:.1%}"
        wrong = np.argmax(ADV_LOGITS[index])
        assert row[2].get_title() == f"class {wrong}: {PROBABILITY[index]:.1%}"


@pytest.mark.parametrize("shape", [(6, 4, 5, 1), (6, 4, 5), (6, 4, 5, 3)])
def test_images_are_clean_perturbation_and_adversarial(shape):
    report = make_with_images(shape)
    rows = _rows(kr.evaluation.draw_examples(report, num_examples=2))
    for row, index in zip(rows, (4, 1), strict=True):
        delta = report.x_adv[index] - report.x[index]
        largest = np.abs(delta).max()
        expected = report.x[index], 0.5 + 0.5 * delta / largest, report.x_adv[index]
        for axis, image in zip(row, expected, strict=True):
            found = axis.get_images()[0].get_array()
            squeezed = image[..., 0] if shape[-1] == 1 else image
            np.testing.assert_allclose(found, squeezed, rtol=1e-6)
            assert axis.get_images()[0].get_clim() == (0.0, 1.0)
        assert row[1].get_title() == f"perturbation, max {largest:.3g}"


@pytest.mark.parametrize(
    "bounds", [(0.0, 255.0), ([0.0, 0.0, 0.0], [255.0, 255.0, 255.0]), (-10.0, 290.0), None]
)
def test_values_are_scaled_from_the_bounds(bounds):
    report = make_with_images((6, 4, 5, 3), bounds, scale=255.0)
    image = _rows(kr.evaluation.draw_examples(report, num_examples=1))[0, 0].get_images()[0]
    low, high = bounds or (report.x.min(), report.x.max())
    low, high = np.asarray(low), np.asarray(high)
    np.testing.assert_allclose(image.get_array(), (report.x[4] - low) / (high - low), rtol=1e-6)


def test_an_empty_perturbation_is_gray():
    report = make_with_images()
    report.x_adv[:] = report.x
    image = _rows(kr.evaluation.draw_examples(report, num_examples=1))[0, 1].get_images()[0]
    np.testing.assert_array_equal(image.get_array(), np.full((4, 5), 0.5))


@tiers.parametrize("num_examples,expected", [(1, 1), (3, 3), (100, 6)])
def test_a_png_has_at_most_num_examples_rows(tmp_path, num_examples, expected):
    path = tmp_path / "examples.png"
    figure = make_with_images().plot(str(path), num_examples=num_examples)
    assert _rows(figure).shape == (expected, 3)
    height, width = matplotlib.image.imread(path).shape[:2]
    assert (height, width) == (expected * 315 + 75, 900)
    assert [item.name for item in tmp_path.iterdir()] == ["examples.png"]


def test_nothing_is_written_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_with_images().plot()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5, 2), (6, 2, 4, 5, 1)])
def test_inputs_that_are_no_images(shape):
    message = "Pictures need a report from.*1, 3 or 4 channels. Received: inputs of shape "
    with refusals.assert_refused(message + re.escape(str(shape))):
        make_with_images(shape).plot()
    assert not example_plot.has_images(make_with_images(shape))


def test_classes_have_the_names_given():
    # A dollar sign would start a formula.
    rows = _rows(make_with_images().plot(num_examples=1, class_names=["cat", "$dog", "bird$"]))
    assert rows[0][0].get_ylabel() == "true cat"
    assert rows[0][0].get_title().startswith("cat: ")
    assert rows[0][2].get_title() == f"bird$: {PROBABILITY[4]:.1%}"
    rows[0][0].figure.savefig(io.BytesIO())


@pytest.mark.parametrize("names", [["a", "b"], "abc", []])
def test_wrong_names(names):
    refusals.assert_argument_refused(
        make_with_images().plot,
        "one name for each of the 3 classes. Received: class_names=",
        class_names=names,
    )


def test_threat_models_without_a_box_of_one_and_constant_inputs():
    report = make_with_images()
    del report.threat_model["config"]["bounds"]
    image = _rows(report.plot(num_examples=1))[0, 0].get_images()[0].get_array()
    low, high = report.x.min(), report.x.max()
    np.testing.assert_allclose(image, (report.x[4] - low)[..., 0] / (high - low), rtol=1e-6)
    report.x[:] = 0.5
    image = _rows(report.plot(num_examples=1))[0, 0].get_images()[0].get_array()
    np.testing.assert_array_equal(image, np.zeros((4, 5)))


def test_a_report_that_was_read_from_a_file(tmp_path):
    make_with_images().save(tmp_path / "report.json")
    loaded = kr.RobustnessReport.load(tmp_path / "report.json")
    with pytest.raises(ValueError, match="Pictures need a report from `evaluate`.*None"):
        loaded.plot()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_robust\[plots\]'"):
        make_with_images().plot()
