import numpy as np

from keras_robust import losses
from tests.support import refusals

LOGITS = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
LABELS, TARGETS = np.array([0, 1, 2, 3, 4]), np.array([5, 0, 1, 2, 3])


def test_is_the_equation_of_the_paper():
    z = LOGITS.astype("float64")
    rows, top = np.arange(5), np.sort(z, axis=-1)[:, ::-1]
    expected = z[rows, TARGETS] - z[rows, LABELS]
    expected = expected / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]))
    np.testing.assert_allclose(losses.targeted_dlr(LABELS, TARGETS, LOGITS), expected, rtol=1e-5)
    rows = np.eye(6)[LABELS]
    np.testing.assert_allclose(losses.targeted_dlr(rows, TARGETS, LOGITS), expected, rtol=1e-5)


def test_does_not_change_with_the_scale_of_the_logits():
    one = losses.targeted_dlr(LABELS, TARGETS, LOGITS)
    other = losses.targeted_dlr(LABELS, TARGETS, 100.0 * LOGITS + 7.0)
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_needs_four_classes():
    with refusals.assert_refused('at least 4 classes; use loss="margin".*(5, 3)'):
        losses.targeted_dlr(np.zeros(5, int), TARGETS, LOGITS[:, :3])


def test_lead_of_the_target():
    z = LOGITS
    expected = z[np.arange(5), TARGETS] - z[np.arange(5), LABELS]
    np.testing.assert_allclose(losses.lead_of(TARGETS, LABELS, LOGITS), expected, rtol=1e-6)
