import keras
import numpy as np

import keras_robust as kr
from keras_robust.attacks.result import AttackResult

# A point 0.3 away along the first feature, which is of class 1; and none for the second example.
X = np.array([[0.2, 0.5], [0.2, 0.5], [0.8, 0.5]], "float32")
Y = np.array([0, 0, 0])


def model(x):
    return keras.ops.stack([0.4 - x[:, 0], x[:, 0] - 0.4], axis=-1)


class Step(kr.attacks.MinimumNormAttack):
    """Steps 0.3 along the first feature, and finds nothing for the second example."""

    def nearest(self, classifier, x, y, threat_model, seed, restart):
        zero = keras.ops.zeros_like(x[:, 0])
        moved = x + np.array([[0.3, 0.0]], "float32")
        finds = np.array([True, False, True])
        return AttackResult(moved, zero, finds, zero > 0.0, keras.ops.full((3,), 5, "int32"))


# The boundary is 0.2 away; 12 halvings leave 0.3 / 4096 at most.
BACK = {"rtol": 0, "atol": 1e-4}


def test_in_the_ball_the_nearest_mistake_is_the_result():
    found = Step().run(model, X, Y, kr.L2(0.31))
    np.testing.assert_allclose(found.x_adv, [[0.4, 0.5], X[1], X[2]], **BACK)
    np.testing.assert_array_equal(found.success, [True, False, True])
    np.testing.assert_allclose(-found.loss[[0, 2]], [0.2, 0.0], **BACK)
    assert -found.loss[1] == np.float32(kr.attacks.NEVER)
    np.testing.assert_array_equal(found.queries, [8 + 13, 8, 8])


def test_outside_of_the_ball_it_is_drawn_inside_and_judged_there():
    # At 0.25 the nearest mistake is inside, at 0.15 it is not.
    found = Step().run(model, X, Y, kr.L2(0.25))
    np.testing.assert_allclose(found.x_adv[0], [0.4, 0.5], **BACK)
    assert found.success[0]
    found = Step().run(model, X, Y, kr.L2(0.15))
    np.testing.assert_allclose(found.x_adv[0], [0.35, 0.5], atol=1e-6)
    assert not found.success[0]
    np.testing.assert_allclose(-found.loss[0], 0.2, **BACK)


def test_without_a_radius_the_nearest_mistakes_come_back():
    found = Step().run(model, X, Y, kr.L2(0.1).with_epsilon(np.inf))
    np.testing.assert_allclose(found.x_adv[0], [0.4, 0.5], **BACK)
    np.testing.assert_array_equal(found.success, [True, False, True])
