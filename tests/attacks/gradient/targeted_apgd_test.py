import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import numpy_reference
from tests.support import refusals

SEED = np.array([3, 5], "int32")
# Four classes. An example at 0 is of class 0, and 3 is the most likely wrong class.
HEAD = np.array([[0.0, -3.0, -2.0, -1.0]], "float32")
SLOPES = np.array([[-2.0, 0.0, 0.0, 1.0], [0.0, 0.0, 3.0, 0.0], [0.0, 2.0, 0.0, 0.0]], "float32")


def four_classes(x):
    return x @ SLOPES + HEAD


def steep_class_1(x):
    return x @ (SLOPES * np.float32([1.0, 9.0, 1.0, 1.0])) + HEAD


def goal_at(attack, restart, point, model=four_classes, ball=None):
    x = keras.ops.zeros((1, 3))
    classifier, y = models.Classifier(model), np.array([0])
    problem = kr.attacks.SearchProblem(classifier, x, y, ball, SEED, restart=restart)
    attack_loss = attack.attack_loss(problem)
    return float(attack_loss(keras.ops.convert_to_tensor(point))[0][0])


@pytest.mark.parametrize(("restart", "target"), [(0, 3), (1, 2), (2, 1), (3, 3)])
def test_every_restart_has_the_next_likely_class_as_its_target(restart, target):
    point = np.array([[0.1, 0.2, 0.3]], "float32")
    z = np.asarray(four_classes(point))[0].astype("float64")
    attack = kr.attacks.TargetedAPGD(loss="margin")
    assert goal_at(attack, restart, point) == pytest.approx(z[target] - z[0], abs=1e-6)
    top = np.sort(z)[::-1]
    expected = (z[target] - z[0]) / (top[0] - 0.5 * (top[2] + top[3]))
    assert goal_at(kr.attacks.TargetedAPGD(), restart, point) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("restart", "target"), [(0, 1), (1, 3), (2, 2), (3, 1)])
def test_malt_ranks_by_the_distance_of_the_boundary(restart, target):
    # The gaps are 3, 1 and 2 for classes 1, 3 and 2. Their slopes against class 0 have the norms
    # 18, 3 and 3 in Linf, the dual of L1, so that the distances are 1/6, 1/3 and 2/3.
    point = np.array([[0.1, 0.2, 0.3]], "float32")
    z = np.asarray(steep_class_1(point))[0].astype("float64")
    attack = kr.attacks.TargetedAPGD(loss="margin", ranking="malt")
    found = goal_at(attack, restart, point, steep_class_1, kr.L1(1.0))
    assert found == pytest.approx(z[target] - z[0], abs=1e-6)


@pytest.mark.exhaustive
def test_malt_counts_a_gradient_for_every_class():
    x, y = numpy_reference.examples(4)
    arguments = {"loss": "margin", "num_targets": 1, "num_steps": 3}
    by_logits, malt = (
        kr.attacks.TargetedAPGD(**arguments, ranking=ranking).run(
            numpy_reference.keras_model(), x, y, kr.Linf(1e-6)
        )
        for ranking in ("logits", "malt")
    )
    # Two wrong classes.
    np.testing.assert_array_equal(malt.queries - by_logits.queries, [4] * 4)


@pytest.mark.exhaustive
def test_only_the_right_target_reaches_a_class_behind_the_runner_up():
    # Only the third input raises class 1, and it is the only input that the box allows to move.
    x, y = np.array([[0.5, 0.5, 0.0]], "float32"), np.array([0])

    def model(x):
        near = keras.ops.stack([0.0 * x[:, 2], 9.0 * x[:, 2] - 5.3, -0.1 + 0.0 * x[:, 2]], axis=-1)
        return keras.ops.concatenate([near, -3.0 + 0.0 * x[:, :1]], axis=-1)

    ball = kr.Linf(0.6)
    one = kr.attacks.TargetedAPGD(num_targets=1, num_steps=5).run(model, x, y, ball)
    three = kr.attacks.TargetedAPGD(num_targets=3, num_steps=5).run(model, x, y, ball)
    assert three.success[0] and three.x_adv[0, 2] > 5.3 / 9.0
    assert three.queries[0] > one.queries[0]


@pytest.mark.exhaustive
def test_two_classes_need_the_margin():
    x, y = np.zeros((1, 2), "float32"), np.array([0])
    with pytest.raises(ValueError, match='at least 4 classes; use loss="margin".*shape'):
        kr.attacks.TargetedAPGD().run(lambda x: x, x, y, kr.Linf(0.1))
    network = numpy_reference.keras_model()
    x, y = numpy_reference.examples(4)
    found = kr.attacks.TargetedAPGD(loss="margin", num_targets=2).run(network, x, y, kr.Linf(0.4))
    predicted = np.argmax(numpy_reference.logits(found.x_adv.astype("float64")), axis=-1)
    np.testing.assert_array_equal(found.success, predicted != y)
    assert found.success.any()


def test_wrong_arguments_are_named():
    refusals.assert_argument_refused(
        kr.attacks.TargetedAPGD, "`num_targets` must be an int >= 1. Received: 0", num_targets=0
    )
    with pytest.raises(ValueError, match="`loss`.*Received: 'cross_entropy'"):
        kr.attacks.TargetedAPGD(loss="cross_entropy")
    with pytest.raises(ValueError, match="`ranking`.*Received: 'gradients'"):
        kr.attacks.TargetedAPGD(ranking="gradients")
