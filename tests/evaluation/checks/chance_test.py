import io

import numpy as np
import pytest
import rich.console

import keras_robust as kr
from keras_robust.evaluation.checks.chance import measure_chance

RNG = np.random.default_rng(0)
TEN = np.repeat(np.arange(10), 30)


@pytest.mark.parametrize(
    "labels,predictions,accuracy,has_warning",
    [
        (TEN, TEN, 1.0, False),
        (TEN, np.zeros(300, int), 0.1, True),
        (TEN, RNG.permutation(TEN), None, True),
        # An accuracy of 30% is far above chance.
        (TEN, np.where(np.arange(300) % 10 < 3, TEN, 99), 0.3, False),
        # A constant prediction of the larger class is right on 95%.
        (np.arange(400) % 20 == 0, np.zeros(400, bool), 0.5, True),
        (np.arange(400) % 20 == 0, np.arange(400) % 20 == 0, 1.0, False),
        # With few examples nothing can be concluded.
        (np.array([1, 1, 0]), np.array([1, 1, 0]), 1.0, False),
        (np.array([1, 0]), np.array([0, 0]), 0.5, False),
        # An accuracy below chance also warns.
        (TEN, (TEN + 1) % 10, 0.0, True),
    ],
)
def test_a_constant_prediction_is_at_chance(labels, predictions, accuracy, has_warning):
    chance = measure_chance(labels.astype(int), predictions.astype(int))
    assert accuracy is None or chance.accuracy == pytest.approx(accuracy)
    assert (chance.warning is not None) is has_warning
    if has_warning:
        assert chance.warning.startswith(
            f"Clean accuracy is at chance, {chance.accuracy:.1%} on ave"
        )


def test_the_limit_is_three_standard_deviations():
    sizes = np.array([40, 10])
    chance = measure_chance(np.repeat([0, 1], sizes), np.zeros(50, int))
    deviation = np.sqrt(np.sum(0.25 / sizes)) / 2
    assert chance.limit == pytest.approx(0.5 + 3 * deviation)
    many = measure_chance(np.repeat([0, 1], 10**5), np.zeros(2 * 10**5, int))
    assert many.limit == pytest.approx(0.52)


def test_examples_of_one_class_have_no_chance_level():
    assert measure_chance(np.zeros(9, int), np.ones(9, int)) is None


X = RNG.uniform(size=(80, 2)).astype("float32")
Y = (X[:, 0] > 0.5).astype("int64")


def _in_grey_levels(x):
    """A model for inputs up to 255. For inputs in [0, 1] its softmax saturates at class 0."""
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
def test_reports_start_with_the_warning(report, kind, tmp_path):
    words = "Clean accuracy is at chance, 50.0% on average over 2 classes: the model does not"
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


def test_certificates_start_with_the_warning():
    report = kr.certify(_in_grey_levels, (X, Y), noise_stddev=0.1, num_samples=20)
    assert report.clean_accuracy == np.mean(Y == 0)
    assert "Clean accuracy is at chance" in " ".join(str(report).split())
    good = kr.certify(lambda x: _in_grey_levels(255 * x), (X, Y), noise_stddev=0.01, num_samples=20)
    assert "chance" not in str(good)
