import io

import numpy as np
import pytest
import rich.console

import keras_robust as kr
from keras_robust.evaluation.checks.chance import measure_chance

RNG = np.random.default_rng(0)
TEN = np.repeat(np.arange(10), 30)


@pytest.mark.parametrize(
    "labels,predictions,accuracy,is_told",
    [
        (TEN, TEN, 1.0, False),
        (TEN, np.zeros(300, int), 0.1, True),
        (TEN, RNG.permutation(TEN), None, True),
        # Right on 30%, which is far from chance.
        (TEN, np.where(np.arange(300) % 10 < 3, TEN, 99), 0.3, False),
        # What always names the larger class is right on 95%.
        (np.arange(400) % 20 == 0, np.zeros(400, bool), 0.5, True),
        (np.arange(400) % 20 == 0, np.arange(400) % 20 == 0, 1.0, False),
        # Nothing can be told of few examples.
        (np.array([1, 1, 0]), np.array([1, 1, 0]), 1.0, False),
        (np.array([1, 0]), np.array([0, 0]), 0.5, False),
        # Worse than chance is no better.
        (TEN, (TEN + 1) % 10, 0.0, True),
    ],
)
def test_who_names_a_class_without_a_look_is_at_chance(labels, predictions, accuracy, is_told):
    chance = measure_chance(labels.astype(int), predictions.astype(int))
    assert accuracy is None or chance.accuracy == pytest.approx(accuracy)
    assert (chance.doubt is not None) is is_told
    if is_told:
        assert chance.doubt.startswith(f"Clean accuracy is at chance, {chance.accuracy:.1%} in the")


def test_the_limit_is_three_standard_deviations():
    sizes = np.array([40, 10])
    chance = measure_chance(np.repeat([0, 1], sizes), np.zeros(50, int))
    deviation = np.sqrt(np.sum(0.25 / sizes)) / 2
    assert chance.limit == pytest.approx(0.5 + 3 * deviation)
    many = measure_chance(np.repeat([0, 1], 10**5), np.zeros(2 * 10**5, int))
    assert many.limit == pytest.approx(0.52)


def test_of_one_class_nothing_is_told():
    assert measure_chance(np.zeros(9, int), np.ones(9, int)) is None


X = RNG.uniform(size=(80, 2)).astype("float32")
Y = (X[:, 0] > 0.5).astype("int64")


def _in_grey_levels(x):
    """Takes inputs up to 255, of which none of [0, 1] is above 127.5; its gradients vanish."""
    margin = np.float32(1.0) * (x[:, :1] - 127.5)
    return np.float32(1.0) * margin * np.array([[-1.0, 1.0]], "float32")


def _first_sentence(shown):
    console = rich.console.Console(file=io.StringIO(), width=200, color_system=None)
    console.print(shown)
    return " ".join(console.file.getvalue().split("┘")[-1].split()).removeprefix("- ")


@pytest.fixture(scope="module")
def report():
    return kr.evaluate(_in_grey_levels, (X, Y), kr.Linf(0.001), "fgsm", minimum_norm=None)


@pytest.mark.parametrize("kind", ["report", "comparison", "page"])
def test_reports_say_so_before_anything_else(report, kind, tmp_path):
    words = "Clean accuracy is at chance, 50.0% in the mean over 2 classes: the model does not"
    assert report.warnings[0].startswith(words)
    assert any(check.verdict == "failed" for check in report.checks)
    if kind == "report":
        assert _first_sentence(report).startswith(words)
    elif kind == "comparison":
        shown = kr.evaluation.compare({"mine": report})
        assert _first_sentence(shown).startswith(f"mine: {words}")
    else:
        report.save_html(tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        assert page.index("<li>") == page.index(f"<li>{words}")


def test_certificates_say_so_first():
    report = kr.certify(_in_grey_levels, (X, Y), noise_stddev=0.1, num_samples=20)
    assert report.clean_accuracy == np.mean(Y == 0)
    assert "Clean accuracy is at chance" in " ".join(str(report).split())
    good = kr.certify(lambda x: _in_grey_levels(255 * x), (X, Y), noise_stddev=0.01, num_samples=20)
    assert "chance" not in str(good)
