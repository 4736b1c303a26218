import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.validation import check_labels
from keras_robust.evaluation.validation import check_threat_model
from tests.support import refusals

LOGITS = np.zeros((4, 3), "float32")
Y = np.array([2, 0, 1, 2])


@pytest.mark.parametrize(
    "y", [Y, Y[:, None], Y.astype("uint8"), Y.astype("float32"), np.eye(3)[Y], list(Y)]
)
def test_labels_become_class_indices(y):
    labels = check_labels(y, LOGITS)
    np.testing.assert_array_equal(labels, Y)
    assert isinstance(labels, np.ndarray) and labels.dtype.kind == "i"


def test_soft_rows_count_by_their_largest_entry():
    rows = np.full((4, 3), 0.1)
    rows[range(4), Y] = 0.8
    np.testing.assert_array_equal(check_labels(rows, LOGITS), Y)


@pytest.mark.parametrize(
    "y,message",
    [
        (Y + 1, "indices from 0 to 2, as.*Received: labels from 1 to 3"),
        (Y - 1, "indices from 0 to 2, as.*Received: labels from -1 to 1"),
        (np.eye(4)[Y], r"each of the 3 classes.*Received: labels of shape \(4, 4\)"),
        (np.eye(2)[Y // 2], r"each of the 3 classes.*Received: labels of shape \(4, 2\)"),
        (Y.reshape(4, 1, 1), r"Received: labels of shape \(4, 1, 1\)"),
        (np.array(["a", "b", "c", "a"]), "Received: .* dtype <U1"),
        (Y.astype("complex64"), "Received: .* dtype complex64"),
    ],
)
def test_wrong_labels(y, message):
    with refusals.assert_refused(message):
        check_labels(y, LOGITS)


def test_threat_models_must_change_inputs():
    assert isinstance(check_threat_model("linf"), kr.Linf)
    assert check_threat_model(kr.L2(0.5)).epsilon == 0.5
    at_layer = kr.threat_models.AtLayer("dense", kr.L2(1.0, bounds=None))
    with pytest.raises(ValueError, match="an attacker can send.*Received: AtLayer"):
        check_threat_model(at_layer)
