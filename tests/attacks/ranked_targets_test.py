import numpy as np
import pytest

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
