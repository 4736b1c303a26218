import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import keras_robust as kr
from tests.support import backends
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals

X, Y = numpy_reference.examples(40)
BITS = [kr.layers.BitDepth(1), kr.layers.BitDepth(3)]


def detector(model=None, squeezers=BITS, **arguments):
    model = model or numpy_reference.keras_model()
    return kr.layers.FeatureSqueezingDetector(model, squeezers, **arguments)


def expected(x=X):
    """`max_s || softmax(z(x)) - softmax(z(s(x))) ||_1` in float64."""
    x = x.astype("float64")
    plain = special.softmax(numpy_reference.logits(x), axis=-1)
    squeezed = [
        special.softmax(numpy_reference.logits(np.round(x * steps) / steps), axis=-1)
        for steps in (1, 7)
    ]
    return np.max([np.abs(plain - one).sum(-1) for one in squeezed], axis=0)


def test_scores():
    scores = detector()(X)
    np.testing.assert_allclose(scores, expected(), atol=1e-5)
    # Both squeezers matter on some example.
    alone = [np.asarray(detector(squeezers=one)(X)) for one in BITS]
    assert (alone[0] > alone[1]).any() and (alone[0] < alone[1]).any()


@pytest.mark.parametrize(("rate", "turned_away"), [(0.0, 0), (0.05, 2), (0.3, 12), (0.26, 10)])
def test_calibration_rejects_the_requested_share(rate, turned_away):
    found = detector()
    threshold = found.calibrate(X, rate, batch_size=16)
    assert threshold == found.threshold
    assert threshold == pytest.approx(np.sort(expected())[len(X) - 1 - turned_away], abs=1e-5)
    assert found.is_adversarial(X).sum() == turned_away


def test_a_model_that_ends_in_a_softmax_has_the_same_scores():
    plain = numpy_reference.keras_model()
    model = keras.Sequential([*plain.layers, keras.layers.Softmax()])
    model.build((None, numpy_reference.FEATURES))
    np.testing.assert_allclose(detector(model)(X), expected(), atol=1e-5)


def test_the_model_runs_in_inference_mode_and_stays_as_it_was():
    plain = numpy_reference.keras_model()
    model = keras.Sequential([keras.layers.Dropout(0.5), *plain.layers])
    model.build((None, numpy_reference.FEATURES))
    np.testing.assert_allclose(detector(model)(X, training=True), expected(), atol=1e-5)


def test_file_round_trip_keeps_threshold_and_weights(tmp_path):
    model = numpy_reference.keras_model()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = detector(model)
    found.calibrate(X, 0.1)
    found.save(tmp_path / "detector.keras")
    revived = keras.models.load_model(tmp_path / "detector.keras")
    assert type(revived) is kr.layers.FeatureSqueezingDetector
    assert revived.threshold == found.threshold
    np.testing.assert_allclose(revived(X), expected(), atol=1e-5)
    np.testing.assert_array_equal(revived.is_adversarial(X), found.is_adversarial(X))


def test_export_gives_scores(tmp_path):
    found = detector()
    found(X)
    found.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    for count in (1, 7):
        np.testing.assert_allclose(served.serve(X[:count]), expected(X[:count]), atol=1e-5)


def test_xla():
    scores = backends.traced(detector(), True)(keras.ops.convert_to_tensor(X))
    np.testing.assert_allclose(scores, expected(), atol=1e-5)


def test_an_attack_can_see_the_score():
    x = keras.ops.convert_to_tensor(X)

    def compute(x):
        return detector()(x)

    scores, slopes = gradients.of(compute, x)
    assert (np.abs(slopes).sum(-1) > 0).all()


def test_no_threshold():
    with pytest.raises(ValueError, match="call `calibrate` on clean examples. Received"):
        detector().is_adversarial(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": lambda x: x}, "`model` must be a keras.Model. Received"),
        ({"squeezers": []}, "at least one Keras layer.*Received: squeezers="),
        ({"squeezers": [np.round]}, "at least one Keras layer.*Received: squeezers="),
        ({"threshold": "much"}, "`threshold` must be a number or None. Received"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        detector(**arguments)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_wrong_rate(rate):
    with refusals.assert_refused(r"must be in \[0, 1\). Received"):
        detector().calibrate(X, rate)


def test_no_examples():
    with refusals.assert_refused("at least one example. Received: 0"):
        detector().calibrate(X[:0])
