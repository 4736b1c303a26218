import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

X, Y = numpy_reference.examples(8)
WRONG = np.where(np.arange(8) == 3, (Y + 1) % 3, Y)


def logits(x):
    return 10.0 * x


def test_figures_follow_from_the_examples():
    x = np.array([[0.2, 0.8], [0.4, 0.5], [0.9, 0.1], [0.7, 0.1]], "float32")
    report = kr.certify(logits, (x, [1, 1, 0, 1]), "linear", norm="Linf")
    np.testing.assert_allclose(report.radii, [0.3, 0.05, 0.4, 0.3], atol=1e-6)
    assert report.predictions == [1, 1, 0, 0] and report.labels == [1, 1, 0, 1]
    assert (report.clean_accuracy, report.abstained) == (0.75, 0.0)
    assert report.average_radius == pytest.approx(0.75 / 4, abs=1e-6)
    found = [report.certified_accuracy(radius) for radius in (0.0, 0.04, 0.06, 0.299, 0.31, 0.5)]
    assert found == [0.75, 0.75, 0.5, 0.5, 0.25, 0.0]
    assert report.method["class_name"] == "Linear" and report.method["config"]["norm"] == "Linf"
    assert (report.norm, report.num_examples, report.num_classes, report.seed) == ("Linf", 4, 2, 0)
    assert report.seconds > 0.0 and "keras" in report.versions
    assert report.model_name == "logits"


def test_the_report_names_the_model_and_no_batch_size_is_needed():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(9.0)], name="ruler")
    x = np.array([[0.9, 0.1], [0.2, 0.8]], "float32")
    options = {"noise_stddev": 0.1, "num_samples": 300}
    report = kr.certify(kr.layers.RandomizedSmoothing(model, 0.1), (x, [0, 1]), num_samples=300)
    assert report.model_name == "ruler"
    assert report.radii == kr.certify(model, (x, [0, 1]), batch_size=100, **options).radii
    half = kr.certify(model, (x, [0, 1]), radius="1/8", **options)
    assert half.radii == [0.125, 0.125] and min(report.radii) > 0.125


@pytest.mark.exhaustive
def test_methods_by_name_with_options_and_as_objects():
    model = numpy_reference.keras_model()
    named = kr.certify(model, (X, Y), "smoothing", noise_stddev=0.1, num_samples=300, seed=2)
    method = kr.certification.Smoothing(0.1, num_samples=300)
    given = kr.certify(model, (X, Y), method, seed=2)
    assert named.radii == given.radii and max(named.radii) > 0.0
    assert named.norm == "L2" and named.seed == 2
    assert named.radii != kr.certify(model, (X, Y), method, seed=3).radii
    smoothed = kr.layers.RandomizedSmoothing(model, 0.1)
    again = kr.certify(smoothed, (X, Y), num_samples=300, seed=2)
    assert again.radii == given.radii
    assert kr.certify(model, (X, Y), "interval").norm == "Linf"


@pytest.mark.exhaustive
def test_data_sets_first_examples_and_rows():
    model = numpy_reference.keras_model()
    expected = kr.certify(model, (X, WRONG), "interval")
    data = tf.data.Dataset.from_tensor_slices((X, np.eye(3)[WRONG])).batch(3)
    assert kr.certify(model, data, "interval").labels == expected.labels == WRONG.tolist()
    few = kr.certify(model, data, "interval", num_examples=5, batch_size=2)
    np.testing.assert_allclose(few.radii, expected.radii[:5])
    assert expected.clean_accuracy == 7 / 8


@tiers.parametrize("method", ["interval", "linear"])
def test_certified_radii_are_below_the_distances_that_fmn_finds(method):
    model = numpy_reference.keras_model()
    if method == "linear":
        head = keras.layers.Dense(3)
        model = keras.Sequential([keras.Input((6,)), head])
        head.set_weights([np.random.default_rng(0).normal(size=(6, 3)), np.zeros(3)])
    report = kr.certify(model, (X, Y), method)
    labels = np.array(report.predictions)
    attacked = kr.evaluate(model, (X, labels), kr.Linf(0.1), "fgsm")
    assert np.all(np.array(report.radii) <= attacked.distances + 1e-4)


@pytest.mark.exhaustive
def test_smoothed_radii_are_below_the_distances_of_the_smoothed_classifier():
    """The smoothed classifier of a linear model is the model itself, so FMN finds its mistakes."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    report = kr.certify(model, (X, Y % 2), noise_stddev=0.3, num_samples=3000)
    sure = np.array(report.predictions) >= 0
    assert sure.any()
    found = kr.evaluate(model, (X[sure], np.array(report.predictions)[sure]), kr.L2(0.1), "fgsm")
    assert np.all(np.array(report.radii)[sure] <= found.distances + 1e-4)


def test_wrong_arguments():
    model = numpy_reference.keras_model()
    with pytest.raises(ValueError, match="Unknown certificate.*Received: 'magic'"):
        kr.certify(model, (X, Y), "magic")
    with pytest.raises(ValueError, match="Unknown.*: 'smothing'. Did you mean 'smoothing'?"):
        kr.certify(model, (X, Y), "smothing", alpha=0.1)
    with pytest.raises(ValueError, match="need a certificate given by name.*Interval"):
        kr.certify(model, (X, Y), kr.certification.Interval(), num_steps=3)
    known = "bounds.*max_radius.*num_steps"
    with pytest.raises(ValueError, match=f"only the arguments .*{known}.* of Interval.*: alpha$"):
        kr.certify(model, (X, Y), "interval", alpha=0.1)
    with refusals.assert_refused("Labels must be class indices from 0 to 2"):
        kr.certify(model, (X, Y + 3), "interval")
    with pytest.raises(ValueError, match="Inputs must lie in the bounds"):
        kr.certify(model, (X + 1.0, Y), "interval")
    with pytest.raises(ValueError, match="must be finite"):
        kr.certify(model, (X * np.nan, Y), noise_stddev=0.1)
    with pytest.raises(ValueError, match="Expected a built Sequential or Functional"):
        kr.certify(lambda x: x, (X, Y), "interval")
    with refusals.assert_refused("`batch_size` must be an int >= 1. Received: 0"):
        kr.certify(model, (X, Y), "interval", batch_size=0)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("complete", {}, "no default for radius: pass radius=... .--radius.. Received: method='c"),
        ("complete", {"bounds": (0, 255)}, r"pass radius=... .*Received: .* with \['bounds'\]"),
        ("complete", {"epsilon": "8/255"}, "of Complete. Write radius='8/255'. Received: epsilon$"),
        ("crown", {"radius": 8}, "at the least cost use max_radius=8, num_steps=0. Received: rad"),
        ("linear", {"epsilon": 8}, r"certified_accuracy\(radius\)` returns .* radius. Received: e"),
        ("smoothing", {"bounds": (0, 255)}, "Smoothing needs no bounds, because its proofs hold w"),
        ("lipschitz", {"clip_min": 0, "clip_max": 1}, "out a box. Received: clip_max, clip_min$"),
    ],
)
def test_the_advice_fits_the_certificate(method, options, message):
    with refusals.assert_refused(message):
        kr.certify(numpy_reference.keras_model(), (X, Y), method, **options)


def test_inputs_of_any_range_are_smoothed():
    report = kr.certify(logits, (40.0 * X - 20.0, Y), noise_stddev=1.0, num_samples=50)
    assert report.num_classes == 6


@pytest.mark.parametrize("method", ["interval", "linear"])
def test_the_error_for_inputs_out_of_the_box_names_the_argument(method):
    x, y = np.full((4, 3), 9.0, "float32"), np.zeros(4, "int32")
    message = "the bounds of the certificate, its argument `bounds`. Rescale them"
    with refusals.assert_refused(message + r".*values in \[9, 9\] under bounds=\(0.0, 1.0\)"):
        kr.certify(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), (x, y), method)
