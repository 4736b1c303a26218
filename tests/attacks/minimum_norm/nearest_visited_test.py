import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.minimum_norm.nearest_visited import cosine
from keras_robust.attacks.minimum_norm.nearest_visited import farthest_distance
from keras_robust.attacks.minimum_norm.nearest_visited import nearest_visited
from keras_robust.attacks.minimum_norm.nearest_visited import width_of_box

X = np.array([[0.0, 0.0], [0.2, 0.0], [0.9, 0.0]], "float32")


def walk(num_steps):
    """Visits x, x + 0.8, x + 1.0, x + 0.6, where points beyond 0.7 are mistakes."""
    path = keras.ops.convert_to_tensor([0.8, 1.0, 0.6])
    problem = kr.attacks.SearchProblem(None, keras.ops.convert_to_tensor(X), None, kr.L2(9.0), None)

    def judge(x_adv):
        return (x_adv[:, 0], x_adv[:, 0] > 0.7), 0.0 * x_adv

    def move(step, visit, seen):
        # The nearest mistake so far counts this point.
        seen = keras.ops.where(visit.success, visit.nearest, seen + visit.distance)
        return problem.x + keras.ops.take(path, step) * np.array([[1.0, 0.0]], "float32"), seen

    return nearest_visited(problem, num_steps, judge, move, keras.ops.zeros((3,)))


def test_keeps_the_nearest_mistake_and_judges_the_last_point():
    # x + 0.8 is the nearest mistake of the first, x + 0.6 of the second; the third is one itself.
    found = walk(3)
    np.testing.assert_allclose(-found.loss, [0.8, 0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found.x_adv[:, 0], [0.8, 0.8, 0.9], rtol=1e-6)
    np.testing.assert_array_equal(found.success, [True] * 3)
    np.testing.assert_array_equal(found.queries, [2 * 3 + 2] * 3)
    # All gradients are 0, which hides nothing where the example is a mistake itself.
    np.testing.assert_array_equal(found.zero_gradient, [True, True, False])
    np.testing.assert_allclose(-walk(1).loss, [0.8, 0.8, 0.0], rtol=1e-6)


def test_no_mistake_leaves_the_example():
    found = walk(0)
    np.testing.assert_array_equal(found.x_adv, X)
    np.testing.assert_array_equal(found.success, [False, False, True])
    np.testing.assert_array_equal(found.loss, [-np.inf, -np.inf, 0.0])


def test_cosine_by_hand():
    # Half a period in four steps: cos is 1, 0.7071, 0 and -0.7071.
    fall = np.array([1.0, 0.853553, 0.5, 0.146447])
    np.testing.assert_allclose(cosine(4.0, 0.1, 4), 0.4 + 3.6 * fall, rtol=1e-5)


@pytest.mark.parametrize(
    ("bounds", "width"),
    [(None, 1.0), ((-1.0, 2.0), 3.0), (([0.0, 1.0, 5.0], [2.0, 5.0, 5.0]), 3.0)],
)
def test_the_width_is_the_mean_over_features_that_can_change(bounds, width):
    assert width_of_box(kr.L2(0.1, bounds)) == pytest.approx(width)


def test_the_farthest_corner_by_hand():
    # The corners are (1, 1), and, from the third example, (0, 1).
    expected = np.sqrt([2.0, 1.64, 1.81])
    np.testing.assert_allclose(farthest_distance(X, kr.L2(0.1)), expected, rtol=1e-6)
    assert np.all(np.isinf(farthest_distance(X, kr.L2(0.1, None))))
