import sys

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.corruption.corrupt import KINDS
from tests.support import refusals
from tests.support import tiers


def bright(x):
    """Logits of two classes: whether the mean of an image is above a half."""
    score = keras.ops.mean(x, axis=(1, 2, 3)) - 0.5
    return keras.ops.stack([-score, score], axis=-1)


def data(count=20):
    """Images of one value each, on both sides of a half."""
    values = np.linspace(0.305, 0.685, count)
    x = values[:, None, None, None] * np.ones((1, 8, 8, 1))
    return x.astype("float32"), (values > 0.5).astype("int64")


def test_the_counts_are_those_of_a_loop():
    x, y = data()
    kinds = ["brightness", "gaussian_noise"]
    report = kr.evaluation.corruptions(bright, (x, y), kinds=kinds, batch_size=6, seed=3)
    # The values are 0.02 apart, and brightness adds up to 0.3.
    added = np.array([0.05, 0.1, 0.15, 0.2, 0.3])
    wrong = [np.sum((x[:, 0, 0, 0] <= 0.5) & (x[:, 0, 0, 0] + one > 0.5)) for one in added]
    np.testing.assert_array_equal(report.num_correct[0], 20 - np.array(wrong))
    copies = [kr.evaluation.corrupt(x, "gaussian_noise", s, seed=3) for s in range(1, 6)]
    right = [np.sum((copy.mean(axis=(1, 2, 3)) > 0.5) == y) for copy in copies]
    np.testing.assert_array_equal(report.num_correct[1], right)
    assert report.clean_accuracy == 1.0 and report.num_examples == 20
    assert (report.kinds, report.seed, report.num_classes) == (kinds, 3, 2)
    assert report.parameters == "CIFAR-10-C" and report.warnings == []


def test_batches_and_units_do_not_matter():
    x, y = data(6)
    arguments = {"kinds": ["snow", "fog"], "seed": 1}
    expected = kr.evaluation.corruptions(bright, (x, y), **arguments).num_correct
    batches = kr.evaluation.corruptions(bright, (x, y), **arguments, batch_size=4)
    assert batches.num_correct == expected
    large = kr.evaluation.corruptions(
        lambda x: bright(x / 255.0), (255.0 * x, y), **arguments, bounds=(0, 255)
    )
    assert large.num_correct == expected and large.bounds == (0.0, 255.0)
    assert expected != [[6] * 5] * 2


def test_the_first_examples_have_the_same_copies():
    x, y = data()
    order = np.random.default_rng(0).permutation(20)
    arguments = {"kinds": "gaussian_noise", "num_examples": 7}
    found = kr.evaluation.corruptions(bright, (x[order], y[order]), **arguments)
    cut = kr.evaluation.corruptions(bright, (x[order[:7]], y[order[:7]]), kinds="gaussian_noise")
    assert found.num_correct == cut.num_correct and found.num_examples == 7


def test_a_model_is_its_own_baseline():
    x, y = data()
    kinds = ["brightness", "snow"]
    report = kr.evaluation.corruptions(bright, (x, y), kinds=kinds, baseline=bright)
    assert report.mean_corruption_error == pytest.approx(1.0)
    assert report.relative_mean_corruption_error == pytest.approx(1.0)
    again = kr.evaluation.corruptions(bright, (x, y), kinds=kinds, baseline=report)
    assert again.baseline == report.baseline and report.baseline["clean"] == 0.0


def test_a_baseline_of_half_the_errors_doubles_the_mce():
    x, y = data()
    plain = kr.evaluation.corruptions(bright, (x, y), kinds=["brightness"])
    errors = {"brightness": (0.5 * (1.0 - plain.accuracy[0])).tolist()}
    report = kr.evaluation.corruptions(bright, (x, y), kinds=["brightness"], baseline=errors)
    assert report.mean_corruption_error == pytest.approx(2.0)
    assert report.relative_mean_corruption_error is None


def test_outputs_that_are_not_finite_are_mistakes():
    def broken(x):
        logits = bright(x)
        return keras.ops.where(logits[:, 1:] > 0.19, np.inf, logits)

    x, y = data()
    report = kr.evaluation.corruptions(broken, (x, y), kinds=["brightness"])
    values = x[:, 0, 0, 0]
    right = [(values > 0.5) & (values + one < 0.69) | (values + one <= 0.5) for one in (0.05, 0.1)]
    np.testing.assert_array_equal(report.num_correct[0][:2], np.sum(right, axis=1))


def test_a_model_at_chance_is_warned_about():
    x = data(200)[0]
    y = np.arange(200) % 2
    report = kr.evaluation.corruptions(bright, (x, y), kinds=["contrast"])
    assert len(report.warnings) == 1 and "at chance" in report.warnings[0]


@tiers.parametrize("kinds", [("glass_blur", "fog", "pixelate"), KINDS])
def test_a_network_on_digits_loses_accuracy_and_stays_as_it_is(kinds):
    digits = kr.datasets.load("digits")
    x, y = digits.train
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dropout(0.2)]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    # Least squares train a linear network at once.
    columns = np.c_[x.reshape(len(x), -1), np.ones(len(x))]
    fit = np.linalg.lstsq(columns, np.eye(10)[y], rcond=None)[0]
    model.layers[-1].set_weights([fit[:-1], fit[-1]])
    before = [np.asarray(variable) for variable in model.variables]
    report = kr.evaluation.corruptions(model, digits.test, kinds=kinds, num_examples=30)
    np.testing.assert_equal([np.asarray(variable) for variable in model.variables], before)
    assert report.kinds == list(kinds) and report.accuracy.shape == (len(kinds), 5)
    assert report.clean_accuracy > 0.7
    assert 0.2 < report.mean_accuracy < report.clean_accuracy
    assert report.accuracy[:, 4].mean() < report.accuracy[:, 0].mean()


def test_without_pillow_two_kinds_are_refused_before_the_others_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    calls = []
    with pytest.raises(ImportError, match=r"keras_robust\[corruptions\]"):
        kr.evaluation.corruptions(calls.append, data())
    assert calls == []
    report = kr.evaluation.corruptions(bright, data(), kinds=["contrast"])
    assert report.clean_accuracy == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["fog", "rain"]}, r"`kinds` must be one of .*'rain'"),
        ({"kinds": []}, r"at least one kind.*\[\]"),
        ({"kinds": ["fog", "fog"]}, "each of them once"),
        ({"seed": -(2**40)}, "`seed` must be an int"),
        ({"batch_size": 0}, "`batch_size` must be an int >= 1"),
        ({"bounds": (0.4, 1.0)}, r"the argument `bounds`.*values in \[0\.305, 0\.685\]"),
        ({"baseline": {"fog": 0.5}}, "without contrast"),
        ({"baseline": 3}, "`baseline` must be a model"),
        ({"data": (data()[0][..., 0], data()[1])}, r"Expected images .*\(20, 8, 8\)"),
        ({"data": (data()[0], data()[1] + 1)}, "from 0 to 1.*labels from 1 to 2"),
        ({"data": ({"a": data()[0], "b": data()[0]}, data()[1])}, "Received: "),
        ({"model": type}, "Expected a model"),
        ({"baseline": lambda x: keras.ops.tile(bright(x), (1, 2))}, "with 2 classes"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    arguments = {"model": bright, "data": data(), "kinds": ["contrast"], **arguments}
    with refusals.assert_refused(message):
        kr.evaluation.corruptions(**arguments)
