import sys

import matplotlib.image
import numpy as np
import pytest

import keras_robust as kr

RNG = np.random.default_rng(0)
Y = np.array([2, 0, 1, 1, 0, 2])
# Right and then wrong: rows 1, 3 and 4, from the most to the least confident mistake 4, 1, 3.
LOGITS = 3.0 * np.eye(3)[[2, 0, 0, 1, 0, 2]] + 0.1
ADV_LOGITS = np.array(
    [[0.0, 0, 9], [0, 2, 0], [9, 0, 0], [0, 0, 1], [0, 0, 3], [0, 0, 8]], "float32"
)
PROBABILITY = {1: np.exp(2) / (np.exp(2) + 2), 3: np.e / (np.e + 2), 4: np.exp(3) / (np.exp(3) + 2)}


def _report(shape=(6, 4, 5, 1), bounds=(0.0, 1.0), scale=1.0):
    x = scale * RNG.uniform(0.2, 0.8, size=shape)
    delta = scale * 0.1 * RNG.uniform(-1.0, 1.0, size=shape)
    return kr.RobustnessReport(
        threat_model={
            "class_name": "Linf",
            "config": {"epsilon": 0.1, "bounds": bounds},
            "epsilon": 0.1,
        },
        num_examples=6,
        num_classes=3,
        clean_accuracy=5 / 6,
        robust_accuracy=2 / 6,
        confidence=(0.0, 1.0),
        attacks=[],
        warnings=[],
        seed=0,
        versions={},
        seconds=0.0,
        x=x,
        y=Y,
        x_adv=x + delta,
        logits=LOGITS,
        adv_logits=ADV_LOGITS,
    )


def _rows(figure):
    return np.array(figure.axes).reshape(-1, 3)


def test_rows_are_the_confident_mistakes_first():
    # Not broken: rows 0, 2 (wrong before) and 5; 9 is more confident than 8.
    rows = _rows(kr.evaluation.draw_examples(_report(), num_examples=5))
    labels = [row[0].get_ylabel() for row in rows]
    assert labels == [f"true class {Y[index]}" for index in (4, 1, 3, 0, 2)]


def test_captions_are_classes_and_probabilities():
    rows = _rows(kr.evaluation.draw_examples(_report(), num_examples=3))
    before = np.exp(3.1) / (np.exp(3.1) + 2 * np.exp(0.1))
    for row, index in zip(rows, (4, 1, 3), strict=True):
        assert row[0].get_title() == f"class {Y[index]}: {before:.1%}"
        wrong = np.argmax(ADV_LOGITS[index])
        assert row[2].get_title() == f"class {wrong}: {PROBABILITY[index]:.1%}"


@pytest.mark.parametrize("shape", [(6, 4, 5, 1), (6, 4, 5), (6, 4, 5, 3)])
def test_images_are_clean_perturbation_and_adversarial(shape):
    report = _report(shape)
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
    report = _report((6, 4, 5, 3), bounds, scale=255.0)
    image = _rows(kr.evaluation.draw_examples(report, num_examples=1))[0, 0].get_images()[0]
    low, high = bounds or (report.x.min(), report.x.max())
    low, high = np.asarray(low), np.asarray(high)
    np.testing.assert_allclose(image.get_array(), (report.x[4] - low) / (high - low), rtol=1e-6)


def test_no_perturbation_is_grey():
    report = _report()
    report.x_adv[:] = report.x
    image = _rows(kr.evaluation.draw_examples(report, num_examples=1))[0, 1].get_images()[0]
    np.testing.assert_array_equal(image.get_array(), np.full((4, 5), 0.5))


@pytest.mark.parametrize("num_examples,expected", [(1, 1), (3, 3), (100, 6)])
def test_writes_a_png_with_so_many_rows(tmp_path, num_examples, expected):
    path = tmp_path / "examples.png"
    figure = _report().plot(str(path), num_examples=num_examples)
    assert _rows(figure).shape == (expected, 3)
    height, width = matplotlib.image.imread(path).shape[:2]
    assert (height, width) == (expected * 315 + 75, 900)
    assert [item.name for item in tmp_path.iterdir()] == ["examples.png"]


def test_nothing_is_written_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _report().plot()
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_are_no_images():
    with pytest.raises(ValueError, match=r"Pictures need a report that.*inputs of shape \(6, 4\)"):
        _report((6, 4)).plot()


def test_a_report_that_was_read_from_a_file(tmp_path):
    _report().save(tmp_path / "report.json")
    loaded = kr.RobustnessReport.load(tmp_path / "report.json")
    with pytest.raises(ValueError, match="Pictures need a report that `evaluate` returned.*None"):
        loaded.plot()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_robust\[plots\]'"):
        _report().plot()
