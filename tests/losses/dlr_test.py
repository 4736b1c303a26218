import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import losses
from tests.support import gradients
from tests.support import refusals

LOGITS = np.array([[2.0, 5.0, 1.0, 0.0], [2.0, 5.0, 1.0, 4.0], [-1.0, -4.0, 0.5, -2.0]], "float32")
LABELS = np.array([1, 0, 2])
# The margins are -3, 3 and -1.5, the denominators 5 - 1, 5 - 2 and .5 + 2.
RATIOS = [-0.75, 1.0, -0.6]


def reference(y, z):
    z = np.asarray(z, "float64")
    top = np.sort(z, axis=-1)[:, ::-1]
    true = np.take_along_axis(z, y[:, None], -1)[:, 0]
    wrong = np.where(np.eye(z.shape[-1])[y] > 0, -np.inf, z).max(-1)
    return (wrong - true) / (top[:, 0] - top[:, 2])


def test_by_hand():
    np.testing.assert_allclose(losses.dlr(LABELS, LOGITS), RATIOS, rtol=1e-6)


def test_is_the_numpy_ratio():
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(50, 6)).astype("float32"), rng.integers(0, 6, 50)
    np.testing.assert_allclose(losses.dlr(y, logits), reference(y, logits), rtol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (0.01, 0.0), (1.0, 7.0), (8.0, -3.0)])
def test_is_invariant_to_scale_and_shift(scale, shift):
    np.testing.assert_allclose(losses.dlr(LABELS, scale * LOGITS + shift), RATIOS, rtol=1e-5)


def test_gradient_agrees_with_finite_differences():
    logits = keras.ops.convert_to_tensor(LOGITS)

    def compute(logits):
        return losses.dlr(LABELS, logits)

    values, slopes = gradients.of(compute, logits)
    found = np.asarray(slopes)
    # Finite differences of the float64 reference.
    expected, small = np.zeros(LOGITS.shape), 1e-6
    for j in range(4):
        shift = small * np.eye(4)[j]
        difference = reference(LABELS, LOGITS + shift) - reference(LABELS, LOGITS - shift)
        expected[:, j] = difference / (2 * small)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_equal_and_extreme_logits_are_finite():
    logits = keras.ops.convert_to_tensor([[1.0, 1.0, 1.0], [1e8, -1e8, 0.0]])

    def compute(logits):
        return losses.dlr(np.array([0, 1]), logits)

    values, slopes = gradients.of(compute, logits)
    np.testing.assert_allclose(values, [0.0, 1.0], atol=1e-6)
    assert np.isfinite(slopes).all()


def test_two_classes_are_refused():
    message = (
        r'"dlr" needs at least 3 classes; use loss="margin" .*Received: logits of shape \(1, 2\)'
    )
    with refusals.assert_refused(message):
        losses.dlr(np.array([0]), np.zeros((1, 2), "float32"))


def test_loss_class_is_the_weighted_mean():
    loss = kr.losses.DLR()
    assert float(loss(LABELS, LOGITS)) == pytest.approx((-0.75 + 1.0 - 0.6) / 3)
    weight = np.array([2.0, 1.0, 0.0], "float32")
    assert float(loss(LABELS, LOGITS, weight)) == pytest.approx(-0.5 / 3)
    assert float(loss(LABELS, LOGITS, 4 * weight)) == pytest.approx(-2.0 / 3)


def test_loss_class_reduction_and_config():
    loss = kr.losses.DLR(reduction="sum", name="ratio")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is kr.losses.DLR
    assert revived.get_config() == loss.get_config()
    assert float(revived(LABELS, LOGITS)) == pytest.approx(-0.35)
