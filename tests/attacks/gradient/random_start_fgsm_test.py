import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import numpy_reference
from tests.support import tiers

RandomStartFGSM = kr.attacks.RandomStartFGSM
SEED = np.array([5, 6], "int32")
EPSILON = {"Linf": 0.08, "L2": 0.2, "L1": 0.4}
every_norm = pytest.mark.parametrize("norm", EPSILON)


def perturb(attack, ball, count=8):
    """Returns the result of the attack in a train step, the examples, and the start."""
    x, y = numpy_reference.examples(count)
    x = keras.ops.convert_to_tensor(x)
    classifier = models.Classifier(numpy_reference.keras_model())
    found = attack.perturb(classifier, x, y, ball, SEED)
    start = np.asarray(ball.random_start(x, SEED), "float64")
    return np.asarray(found.x_adv), np.asarray(x).astype("float64"), y, start


@every_norm
@tiers.parametrize("bounds", [(0.0, 1.0), None], ids=["box", "free"])
@tiers.parametrize(("step", "size"), [(None, 1.25), (0.6, 0.6)])
def test_is_one_step_from_a_random_point_of_the_ball(norm, bounds, step, size):
    epsilon = EPSILON[norm]
    attack = RandomStartFGSM(step_size=None if step is None else step * epsilon)
    ball = getattr(kr.threat_models, norm)(epsilon, bounds)
    x_adv, x, y, start = perturb(attack, ball)
    gradient = numpy_reference.gradient(start, y)
    moved = numpy_reference.step(start, gradient, norm, size * epsilon, bounds)
    expected = numpy_reference.project(moved, x, norm, epsilon, bounds)
    np.testing.assert_allclose(x_adv, expected, rtol=0, atol=3e-6)
    assert np.abs(expected - moved).max() > 0.005 or size < 1.0


def test_the_margin_has_another_gradient():
    ball = kr.threat_models.L2(0.2)
    x_adv, x, y, start = perturb(RandomStartFGSM(loss="margin"), ball)
    gradient = numpy_reference.gradient(start, y, "margin")
    moved = numpy_reference.step(start, gradient, "L2", 0.25, (0.0, 1.0))
    expected = numpy_reference.project(moved, x, "L2", 0.2, (0.0, 1.0))
    np.testing.assert_allclose(x_adv, expected, rtol=0, atol=3e-6)


def test_random_start_is_not_an_argument():
    assert set(RandomStartFGSM().get_config()) == {"step_size", "targeted", "loss"}
    with pytest.raises(TypeError):
        RandomStartFGSM(random_start=False)


@pytest.mark.exhaustive
def test_stays_in_the_ball_so_that_evaluate_accepts_it():
    x, y = numpy_reference.examples()
    model = numpy_reference.keras_model()
    report = kr.evaluate(model, (x, y), kr.Linf(0.1), attacks="random_start_fgsm")
    assert 0.0 <= report.robust_accuracy <= report.clean_accuracy == 1.0


def test_wrong_step_size():
    with pytest.raises(ValueError, match="`step_size` must be a positive .*step_size='wide'"):
        RandomStartFGSM(step_size="wide")
