import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.attacks.decision_based.boundary_direction import boundary_direction
from keras_robust.attacks.decision_based.decision_oracle import DecisionOracle
from tests.support import black_box

WEIGHTS = np.array([[2.0, -1.0, 0.5], [-0.3, 0.1, 1.0]])
RNG = np.random.default_rng(12)
NOISE = RNG.normal(size=(3, 2, 5, 3))
NOISE = (NOISE / np.linalg.norm(NOISE, axis=-1, keepdims=True)).astype("float32")
RADIUS = np.array([0.1, 0.4], "float32")


def at_boundary():
    """Returns one point per example; a row of `WEIGHTS` defines where it is misclassified."""
    return np.array([[0.5, 0.4, 0.95], [0.5, 0.3, 0.2]], "float32")


def direction(function, noise, radius=RADIUS):
    x_adv = keras.ops.convert_to_tensor(at_boundary())
    classifier = models.Classifier(black_box.BlackBox(function))
    decisions = DecisionOracle(classifier, x_adv, np.zeros(2, int), (0.0, 1.0))
    noise = keras.ops.convert_to_tensor(noise)
    return np.asarray(boundary_direction(decisions, x_adv, radius, lambda i: noise[i], len(noise)))


def sloped(x):
    """Returns logits of class 1 on one side of a plane through the points."""
    return np.stack([np.zeros(len(x)), (x - at_boundary()[0]) @ WEIGHTS[0]], axis=-1)


def reference(function, noise):
    """Returns the estimate of the paper in float64."""
    estimates = []
    for i, x in enumerate(at_boundary().astype("float64")):
        u = noise[:, i].reshape(-1, 3).astype("float64")
        points = np.clip(x + RADIUS[i] * u, 0.0, 1.0)
        u = (points - x) / RADIUS[i]
        phi = np.where(function(points).argmax(-1) == 1, 1.0, -1.0)
        mean = phi.mean() if abs(phi.mean()) < 1.0 else 0.0
        estimates.append(np.sum((phi - mean)[:, None] * u, axis=0))
    return np.stack(estimates)


@pytest.mark.parametrize("passes", [1, 3])
def test_equals_the_estimate_of_the_paper(passes):
    found = direction(sloped, NOISE[:passes])
    np.testing.assert_allclose(found, reference(sloped, NOISE[:passes]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("answer", [[0.0, 1.0], [1.0, 0.0]])
def test_if_all_decisions_agree_the_estimate_is_the_sum_of_the_noise(answer):
    def constant(x):
        return np.tile([answer], (len(x), 1))

    found, expected = direction(constant, NOISE), reference(constant, NOISE)
    assert np.abs(expected).min() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_many_samples_point_along_the_gradient():
    noise = RNG.normal(size=(1, 2, 4000, 3))
    noise = (noise / np.linalg.norm(noise, axis=-1, keepdims=True)).astype("float32")
    found = direction(sloped, noise, np.array([0.04, 0.04], "float32"))[0]
    cosine = found @ WEIGHTS[0] / np.linalg.norm(found) / np.linalg.norm(WEIGHTS[0])
    assert cosine > 0.99
