import base64
import io
import re

import matplotlib.image
import numpy as np
import pytest

from keras_robust.evaluation.reports.html.page_classes import make_section
from tests.support import reports
from tests.support.html_document import Document

NAMES = ["ant", "<bee>", "cat"]


def _large(num_classes=30):
    counts = np.random.default_rng(0).integers(1, 50, size=(num_classes, num_classes))
    rows = [
        {"class": k, "num_examples": 5, "clean_accuracy": 0.9, "robust_accuracy": 0.5 + 0.01 * k}
        for k in range(num_classes)
    ]
    return reports.make(num_classes=num_classes, per_class=rows, confusion=counts.tolist()), counts


def test_accuracies_and_the_weakest_class():
    document = Document(make_section(reports.make(confusion=None), NAMES))
    assert document.texts["td"] == ["2", "100.0%", "50.0%", "4", "75.0%", "25.0%", "0", "-", "-"]
    assert document.texts["th"][4:] == NAMES
    assert document.texts["p"] == ["The weakest class is <bee>: 25.0% robust, 75.0% clean."]


def test_the_heat_map_has_the_counts_and_colours_by_share():
    document = Document(make_section(reports.make(per_class=None), NAMES))
    assert document.texts["th"][:7] == ["true class", *NAMES, *NAMES]
    assert document.texts["td"][:9] == ["1", "1", "·", "3", "1", "·", "·", "·", "·"]
    styles = [cell.get("style") for cell in document.named("td")[:9]]
    # An opacity of 55% is the whole class; rows are true classes.
    assert styles[:2] == [f"background: rgb(var(--{name}) / 28%)" for name in ("right", "wrong")]
    assert styles[3:5] == [
        "background: rgb(var(--wrong) / 41%)",
        "background: rgb(var(--right) / 14%)",
    ]
    assert styles[2] is styles[5] is styles[8] is None


def _row(number, clean, robust, size=15):
    return {
        "class": number,
        "num_examples": size,
        "clean_accuracy": clean,
        "robust_accuracy": robust,
    }


def test_a_weakest_class_that_is_wrong_without_an_attack():
    rows = [_row(0, 1.0, 0.8), _row(1, 0.0, 0.0), _row(2, 0.6, 0.2)]
    document = Document(make_section(reports.make(per_class=rows, confusion=None), NAMES))
    assert document.texts["p"] == [
        "The weakest class is <bee>: 0.0% robust, 0.0% clean. The model misclassifies it without "
        "any attack: it is right on 0 of 15 examples. The attacks hurt cat most: from 60.0% to "
        "20.0%."
    ]
    rows = [_row(0, 1.0, 1.0), _row(1, 0.2, 0.2), _row(2, 1.0, 1.0)]
    document = Document(make_section(reports.make(per_class=rows, confusion=None), NAMES))
    assert document.texts["p"][0].endswith("it is right on 3 of 15 examples.")


def test_the_most_frequent_mistakes():
    document = Document(make_section(reports.make(per_class=None), NAMES))
    assert document.texts["th"][-3:] == ["examples", "<bee> as ant", "ant as <bee>"]
    assert document.texts["td"][-2:] == ["3", "1"]


def test_many_classes_are_an_image_and_a_list_that_opens():
    report, counts = _large()
    names = [f"c{k}" for k in range(30)]
    section = make_section(report, names)
    document = Document(section)
    assert len(document.named("details")) == 2
    assert "The weakest class is c0: 50.0% robust, 90.0% clean." in document.texts["p"]
    image = document.named("img")[0]
    assert image["alt"] == "Confusion matrix of 30 classes"
    data = re.fullmatch("data:image/png;base64,(.*)", image["src"]).group(1)
    found = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))[..., 0]
    np.testing.assert_allclose(found, counts / counts.sum(axis=1, keepdims=True), atol=0.01)
    wrong = sorted((counts * (1 - np.eye(30, dtype=int))).ravel(), reverse=True)
    assert [int(text) for text in document.texts["td"][-10:]] == wrong[:10]


@pytest.mark.parametrize("confusion", [[[2, 0], [0, 3]], [[0, 0], [0, 0]]])
def test_no_mistakes(confusion):
    section = make_section(
        reports.make(num_classes=2, per_class=None, confusion=confusion), ["a", "b"]
    )
    assert "mistakes" not in section


def test_nothing_to_show():
    assert make_section(reports.make(per_class=None, confusion=None), NAMES) is None
