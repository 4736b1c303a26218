import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.attacks.ranked_targets import nearest_target
from keras_robust.attacks.ranked_targets import num_candidates
from keras_robust.attacks.ranked_targets import ranked_target

LOGITS = np.array([[5.0, 1.0, 3.0], [0.0, 2.0, 9.0]], "float32")


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, [2, 1]), (1, [1, 0]), (2, [2, 1]), (np.int32(3), [1, 0])]
)
def test_wrong_classes_come_in_order_and_then_repeat(rank, expected):
    np.testing.assert_array_equal(ranked_target(LOGITS, np.array([0, 2]), rank), expected)


def test_the_true_class_is_never_a_target():
    # The model misclassifies the second example, so that its predicted class is the first target.
    targets = [ranked_target(LOGITS, np.array([0, 1]), rank) for rank in range(2)]
    np.testing.assert_array_equal(targets, [[2, 2], [1, 0]])


WEIGHTS = np.random.default_rng(8).normal(size=(5, 6)).astype("float32")


@pytest.mark.parametrize(
    ("ball", "order"), [(kr.Linf(0.1), 1), (kr.L2(0.1), 2), (kr.L1(1.0), np.inf)]
)
def test_the_nearest_boundary_of_a_linear_model_comes_first(ball, order):
    x = np.random.default_rng(9).uniform(size=(4, 5)).astype("float32")
    logits, rows = x @ WEIGHTS, np.arange(4)
    labels = logits.argmax(axis=-1)
    gaps = logits[rows, labels][:, None] - logits
    slopes = WEIGHTS.T[None] - WEIGHTS.T[labels][:, None]
    distances = gaps / np.maximum(np.linalg.norm(slopes, order, axis=-1), 1e-9)
    distances[rows, labels] = np.inf
    expected = np.argsort(distances, axis=-1)[:, :5]
    found = []
    for restart in range(7):
        problem = kr.attacks.SearchProblem(
            models.Classifier(lambda x: x @ WEIGHTS),
            keras.ops.convert_to_tensor(x),
            labels,
            ball,
            None,
            restart=restart,
        )
        found.append(nearest_target(problem, keras.ops.convert_to_tensor(logits), labels))
    np.testing.assert_array_equal(np.transpose(found)[:, :5], expected)
    np.testing.assert_array_equal(np.transpose(found)[:, 5:], expected[:, :2])
    by_logits = np.argsort(np.where(gaps > 0.0, gaps, np.inf), axis=-1)[:, :5]
    assert np.any(expected != by_logits)


def test_at_most_a_hundred_classes_are_compared():
    assert [num_candidates(count) for count in (2, 101, 1000)] == [1, 100, 100]
