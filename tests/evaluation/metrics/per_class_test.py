import json

import numpy as np
import pytest

from keras_robust.evaluation import accuracy_per_class
from keras_robust.evaluation import confusion
from tests.support import refusals

Y = np.array([0, 2, 2, 0, 2, 3, 2], "int32")
CORRECT = np.array([1, 1, 0, 1, 1, 0, 1])
ROBUST = np.array([1, 0, 0, 0, 1, 0, 0])


def test_accuracy_per_class():
    keys = ("class", "num_examples", "clean_accuracy", "robust_accuracy")
    found = accuracy_per_class(Y, CORRECT, ROBUST, num_classes=4)
    assert [tuple(row) for row in found] == [keys] * 4
    assert [tuple(row.values()) for row in found] == [
        (0, 2, 1.0, 0.5),
        (1, 0, None, None),
        (2, 4, 0.75, 0.25),
        (3, 1, 0.0, 0.0),
    ]
    json.dumps(found)


def test_confusion_counts_pairs():
    predictions = np.random.default_rng(0).integers(4, size=(200,))
    y = np.random.default_rng(1).integers(3, size=(200,)).astype("uint8")
    found = confusion(y, predictions, num_classes=4)
    expected = [[int(((y == a) & (predictions == b)).sum()) for b in range(4)] for a in range(4)]
    assert found == expected
    assert found[3] == [0, 0, 0, 0]
    json.dumps(found)


def test_confusion_rows_are_true_classes():
    assert confusion(np.array([0, 0]), np.array([1, 1]), 2) == [[0, 2], [0, 0]]


@pytest.mark.parametrize(
    "y", [[0, 4], [-1, 0], [0.0, 1.0], [[0], [1]], [True, False]], ids=map(str, range(5))
)
def test_wrong_classes(y):
    message = "class indices from 0 to 3, one per example. Received: {}="
    with refusals.assert_refused(message.format("y")):
        accuracy_per_class(np.array(y), [True, True], [True, True], 4)
    with refusals.assert_refused(message.format("predictions")):
        confusion(np.array([0, 1]), np.array(y), 4)


def test_wrong_lengths():
    with refusals.assert_refused(r"Received: shapes \(7,\), \(7,\) and \(6,\)"):
        accuracy_per_class(Y, CORRECT, ROBUST[:6], 4)
    with refusals.assert_refused(r"Received: shapes \(7,\) and \(6,\)"):
        confusion(Y, Y[:6], 4)
