import keras
import numpy as np

import keras_robust as kr
from keras_robust.attacks.result import AttackResult

# The first example has a mistake at a distance of 0.3 along the first feature; the second has none.
X = np.array([[0.2, 0.5], [0.2, 0.5], [0.8, 0.5]], "float32")
Y = np.array([0, 0, 0])


def model(x):
    return keras.ops.stack([0.4 - x[:, 0], x[:, 0] - 0.4], axis=-1)


class Step(kr.attacks.MinimumNormAttack):
    """Steps 0.3 along the first feature, and finds nothing for the second example."""

    def nearest(self, problem):
        zero = keras.ops.zeros_like(problem.x[:, 0])
        moved = problem.x + np.array([[0.3, 0.0]], "float32")
        finds = np.array([True, False, True])
        return AttackResult(moved, zero, finds, zero > 0.0, keras.ops.full((3,), 5, "int32"))


# The boundary is at a distance of 0.2; 12 bisection steps leave an error of at most 0.3 / 4096.
BACK = {"rtol": 0, "atol": 1e-4}


def test_in_the_ball_the_nearest_mistake_is_the_result():
    found = Step().run(model, X, Y, kr.L2(0.31))
    np.testing.assert_allclose(found.x_adv, [[0.4, 0.5], X[1], X[2]], **BACK)
    np.testing.assert_array_equal(found.success, [True, False, True])
    np.testing.assert_allclose(-found.loss[[0, 2]], [0.2, 0.0], **BACK)
    assert -found.loss[1] == np.float32(kr.attacks.NEVER)
    np.testing.assert_array_equal(found.queries, [8 + 13, 8, 8])


def test_points_outside_of_the_ball_are_projected_and_judged_there():
    # A ball of radius 0.25 contains the nearest mistake, one of radius 0.15 does not.
    found = Step().run(model, X, Y, kr.L2(0.25))
    np.testing.assert_allclose(found.x_adv[0], [0.4, 0.5], **BACK)
    assert found.success[0]
    found = Step().run(model, X, Y, kr.L2(0.15))
    np.testing.assert_allclose(found.x_adv[0], [0.35, 0.5], atol=1e-6)
    assert not found.success[0]
    np.testing.assert_allclose(-found.loss[0], 0.2, **BACK)


def test_an_infinite_radius_returns_the_nearest_mistakes():
    found = Step().run(model, X, Y, kr.L2(0.1).with_epsilon(np.inf))
    np.testing.assert_allclose(found.x_adv[0], [0.4, 0.5], **BACK)
    np.testing.assert_array_equal(found.success, [True, False, True])
