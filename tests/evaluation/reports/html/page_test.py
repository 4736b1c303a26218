import base64
import io
import re
import sys

import matplotlib.image
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import evaluation
from keras_robust.evaluation.reports.html.page import make_page
from tests.support import reports
from tests.support.html_document import Document

ATTACK = "<script>alert(1)</script>"


def _text(document):
    return " ".join(" ".join(texts) for texts in document.texts.values())


def _attribute_names(document):
    return {name for _, attributes in document.elements for name in attributes}


def test_the_numbers_stand_at_the_top():
    document = Document(make_page(reports.make_with_images()))
    assert document.texts["h1"] == [
        "Robustness report: Linf, epsilon 0.1 of 0 to 1 (10%), Some suite"
    ]
    assert document.texts["title"] == document.texts["h1"]
    assert document.texts["strong"] == ["33.3%", "83.3%", "1 of 2 failed"]
    text = _text(document)
    assert "95% interval 4.3% - 77.7%, 6 examples" in text
    assert "1 passed, 1 failed, 1 skipped: robust accuracy may be lower" in text


def test_warnings_come_before_the_tables():
    page = make_page(reports.make())
    document = Document(page)
    failed = "Check convergence: failed (value 0.375, threshold 0.0625). Use more steps."
    assert document.texts["li"][:2] == ["something is odd", failed]
    assert page.index(failed) < page.index("<table")
    sure = make_page(reports.make(warnings=[], checks=[evaluation.Check("a", 1, 2, "passed")]))
    assert "Reasons to doubt" not in sure


@pytest.mark.parametrize(
    "verdicts,word,note",
    [
        ([], "none", "no check of whether the attacks worked on this model"),
        (["passed", "skipped"], "1 of 1 ok", "no verdict on the model (1 passed, 1 skipped)"),
        (["skipped"], "1 skipped", "no verdict on the model (1 skipped)"),
        (["failed", "failed"], "2 of 2 failed", "2 failed: robust accuracy may be lower"),
    ],
)
def test_the_verdict_of_the_checks(verdicts, word, note):
    checks = [evaluation.Check("name", None, None, verdict) for verdict in verdicts]
    document = Document(make_page(reports.make(checks=checks)))
    assert document.texts["strong"][2] == word
    assert document.texts["dt"][2] == "attack quality checks"
    assert document.texts["dd"][2] == note


def test_attacks_and_checks():
    document = Document(make_page(reports.make()))
    cells = document.texts["td"]
    assert cells[:6] == ["66.7%", "50.0%", "6", "2,345", "25.0%", "1.5"]
    assert cells[6:12] == ["-", "33.3%", "4", "67", "0.0%", "0.5"]
    assert cells[12:21] == [
        *("passed", "-0.25", "0.125"),
        *("failed", "0.375", "0.0625"),
        *("skipped", "-", "-"),
    ]
    verdicts = [item["class"] for item in document.named("td") if "class" in item]
    assert verdicts == ["text passed", "text failed", "text skipped"]


def test_distances_are_drawn_with_the_radius_and_the_median():
    document = Document(make_page(reports.make_with_images()))
    curve, histogram = (found["aria-label"] for found in document.named("svg"))
    assert curve.startswith("Robust accuracy falls from 90.0%")
    assert histogram.startswith("Sizes of the smallest perturbations of 4 examples")
    for label in (curve, histogram):
        assert label.endswith("epsilon at 0.1, median at 0.0234.")
    assert "Median over all examples: 0.0234." in document.texts["p"]
    captions = " ".join(document.texts["figcaption"])
    assert "that FMN found" in captions
    assert "mistakes on clean examples (1) and examples without any found (1)." in captions


def test_adversarial_examples_have_confidences_and_alternative_texts():
    report = reports.make_with_images()
    document = Document(make_page(report, ["a", "b", "c"], num_examples=2))
    images = document.named("img")
    captions = document.texts["td"][-6:]
    assert [text.split(":")[0] for text in captions] == [
        *("a", captions[1], "c"),
        *("a", captions[4], "b"),
    ]
    before, after = (np.exp(z) / np.exp(z).sum() for z in (report.logits[4], report.adv_logits[4]))
    assert captions[0] == f"a: {before.max():.1%}"
    assert captions[2] == f"c: {after.max():.1%}"
    assert images[0]["alt"] == f"clean image, {captions[0]}"
    assert images[2]["alt"] == f"adversarial image, {captions[2]}"
    for image, expected in zip(images, (report.x[4], None, report.x_adv[4]), strict=False):
        data = image["src"].removeprefix("data:image/png;base64,")
        found = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))[..., :1]
        if expected is not None:
            np.testing.assert_allclose(found, expected, atol=0.51 / 255)


def test_the_page_fetches_nothing_and_runs_nothing():
    page = make_page(reports.make_with_images())
    document = Document(page)
    assert document.named("script") == document.named("link") == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in document.links)
    assert not re.search(r"url\((?!#)|@import|javascript:", page)
    policy = [item for item in document.named("meta") if "http-equiv" in item][0]
    assert policy["content"].startswith("default-src 'none'")
    assert page.isascii() or 'charset="utf-8"' in page


def test_the_page_can_be_read_by_those_who_do_not_see_it():
    document = Document(make_page(reports.make_with_images()))
    assert document.named("html")[0]["lang"] == "en"
    assert all(item.get("alt") for item in document.named("img"))
    assert all(item.get("aria-label") for item in document.named("svg"))
    assert all(item.get("scope") in ("col", "row") for item in document.named("th"))
    assert len(document.texts["h1"]) == 1
    assert len(set(document.ids)) == len(document.ids)


@pytest.mark.exhaustive
def test_untrusted_text_is_shown_and_not_run():
    attack = evaluation.AttackReport(ATTACK, {"loss": ATTACK, ATTACK: ATTACK}, 0.5, 0.5, 0, 1.0)
    epsilon = {"epsilon": ATTACK, "bounds": None, ATTACK: ["</style>", ATTACK]}
    report = reports.make_with_images(
        warnings=[ATTACK],
        checks=[evaluation.Check(ATTACK, 1.0, 2.0, "failed", ATTACK)],
        suite=ATTACK,
        versions={ATTACK: ATTACK},
        attacks=[attack],
        curve={"attack": ATTACK, "epsilons": [0.0], "robust_accuracy": [0.5]},
        threat_model={"class_name": ATTACK, "config": epsilon, "epsilon": 0.1},
    )
    page = make_page(report, class_names=[ATTACK, '" onerror="alert(1)', "$x_{$"])
    document = Document(page)
    honest = Document(make_page(reports.make_with_images()))
    assert ATTACK not in page
    assert document.named("script") == []
    assert {name for name, _ in document.elements} == {name for name, _ in honest.elements}
    assert _attribute_names(document) == _attribute_names(honest)
    assert _text(document).count(ATTACK) > 20
    assert '" onerror="alert(1)' in _text(document)
    assert "$x_{$" in _text(document)


def test_a_report_that_was_read_from_a_file():
    report = kr.RobustnessReport.from_dict(reports.make_with_images().to_dict())
    document = Document(make_page(report))
    assert document.named("img") == []
    assert len(document.named("svg")) == 1
    assert (
        "A report read from a file does not contain the inputs, so there are no pictures."
        in document.texts["p"]
    )
    assert any(
        "report read from a file does not contain" in text for text in document.texts["p"][:-1]
    )


@pytest.mark.parametrize("x", [np.zeros((6, 4)), {"a": np.zeros((6, 4, 4)), "b": np.zeros(6)}])
def test_inputs_that_are_no_images(x):
    document = Document(make_page(reports.make_with_images(x=x, x_adv=x)))
    assert document.named("img") == []
    assert "Adversarial examples" not in document.texts["h2"]


def test_a_report_without_optional_fields(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = reports.make(
        curve=None,
        median_distance=None,
        per_class=None,
        confusion=None,
        checks=[],
        warnings=[],
        suite=None,
        queries=None,
        batch_size=None,
    )
    document = Document(make_page(report))
    assert document.texts["h2"] == ["Attacks", "Adversarial examples", "Settings"]
    assert document.texts["h1"] == ["Robustness report: Linf, epsilon 8/255 of 0 to 1 (3.1%)"]


def test_examples_without_distances_and_lists_of_radii():
    epsilon = {"class_name": "Linf", "config": {"epsilon": [0.1, 0.2]}, "epsilon": [0.1, 0.2]}
    report = reports.make_with_images(
        threat_model=epsilon,
        distances=np.full(6, np.inf),
        median_distance=None,
        curve={"attack": "FMN", "epsilons": [0.0], "robust_accuracy": [1.0]},
    )
    document = Document(make_page(report))
    assert len(document.named("svg")) == 1
    assert "epsilon at" not in document.named("svg")[0]["aria-label"]
    text = (
        "Median over all examples: none, because at least half of them have no adversarial example."
    )
    assert text in document.texts["p"]


def test_pages_are_the_same_every_time():
    assert make_page(reports.make_with_images()) == make_page(reports.make_with_images())
