import keras
import numpy as np
import pytest

from keras_robust import models
from keras_robust.training import label_checks
from tests.support import forward_passes
from tests.support import refusals
from tests.support import requirements

X = forward_passes.X


def _check_labels(y, head=None, loss=None, **arguments):
    head = head or keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((6,)), head])
    model.compile("sgd", loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier, y = models.Classifier(model), keras.ops.convert_to_tensor(y)
    return requirements.message(
        label_checks.check_labels, classifier, keras.ops.convert_to_tensor(X), y, **arguments
    )


@pytest.mark.parametrize("y", [[0, 1, 2, 2], [[0], [1], [2], [2]], [0.0, 1.0, 2.0, 2.0]])
def test_labels_that_are_classes(y):
    assert _check_labels(y) is None


@pytest.mark.parametrize(
    "y,received", [([0, 1, 2, 3], "from 0 to 3"), ([[1], [-2], [1], [1]], "from -2 to 1")]
)
def test_labels_that_are_no_class(y, received):
    message = _check_labels(y)
    assert message.startswith("Labels must be class indices from 0 to 2, as the model has 3 class")
    assert message.endswith(f"Received: a batch with labels {received}")


def test_unlabelled_examples_are_let_through_where_they_are_wanted():
    y = [0, -1, -1, 2]
    assert _check_labels(y).endswith("labels from -1 to 2")
    assert _check_labels(y, unlabelled=True) is None
    assert _check_labels([0, -2, 1, 2], unlabelled=True).endswith("labels from -2 to 2")


def test_unlabelled_examples_may_need_a_loss_that_leaves_them_out():
    y = [0, -1, -1, 2]
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    assert _check_labels(y, unlabelled="if_ignored", loss=ignoring) is None
    message = _check_labels(y, unlabelled="if_ignored")
    assert "need a loss that leaves them out: SparseCategoricalCrossentropy(from_log" in message
    assert message.endswith("labels from -1 to 2")
    assert _check_labels([0, 1, 1, 2], unlabelled="if_ignored") is None


def test_what_a_loss_ignores_is_left_out_of_a_plain_classification():
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    message = _check_labels([0, -1, 2, 1], loss=ignoring)
    assert "Examples that the loss ignores cannot be attacked: leave them out" in message


def test_one_hot_rows_need_the_loss_for_them():
    rows = np.eye(3, dtype="float32")[forward_passes.Y]
    with refusals.assert_refused(r"labels are one-hot rows.*Received: .* shape \(4, 3\)"):
        _check_labels(rows)
    assert _check_labels(rows, loss=keras.losses.CategoricalCrossentropy(from_logits=True)) is None


def test_binary_labels():
    head = keras.layers.Dense(1, activation="sigmoid")
    assert _check_labels([[0.0], [1.0], [1.0], [0.0]], head, "binary_crossentropy") is None
    message = _check_labels([0.0, 1.0, 2.0, 0.0], head, "binary_crossentropy")
    assert message.startswith("Labels must be class indices from 0 to 1, as the model has 2")


def test_targets_of_a_regression_may_be_anything():
    assert _check_labels(np.full((4, 3), -7.5, "float32"), loss="mse") is None


def test_labels_and_sample_weights_must_be_finite():
    y, weights = np.array([0.0, np.nan, 1.0]), np.array([1.0, np.inf, np.inf])
    y, weights = keras.ops.convert_to_tensor(y), keras.ops.convert_to_tensor(weights)
    message = requirements.message(label_checks.check_targets, y, None)
    assert message == "Labels must be finite. Received: a batch with 1 NaN or infinite values"
    message = requirements.message(label_checks.check_targets, None, weights)
    assert message.startswith("Sample weights must be finite. Received: a batch with 2 NaN")
    assert requirements.values(label_checks.check_targets, y, None) == [1.0]
    assert requirements.values(label_checks.check_targets, None, weights) == [2.0]
