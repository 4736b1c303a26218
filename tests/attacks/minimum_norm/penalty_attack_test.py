import keras
import numpy as np
import pytest
from keras import ops

import keras_robust as kr
from keras_robust import models
from keras_robust.attacks.minimum_norm import penalty_attack
from tests.support import numpy_reference
from tests.support import penalty_reference
from tests.support import refusals
from tests.support import tiers

FAR = kr.L2(100.0, bounds=None)


class Walk(penalty_attack.PenaltyAttack):
    """Moves the first coordinate by `learning_rate` each step, whatever the weight."""

    queries_per_step = 1

    def start(self, x, threat_model):
        return x

    def step(self, step, memory, problem):
        move = ops.one_hot([0], memory.shape[-1]) * self.learning_rate
        point = memory + move
        hinge, hits = problem.hinge(point)
        return point, point, hinge, hits

    def penalty(self, delta):
        return ops.abs(delta[:, 0])


def line(threshold):
    """Returns a model whose class changes where the first coordinate reaches a threshold."""
    return lambda x: ops.stack([threshold - x[:, 0], x[:, 0] - threshold], axis=-1)


@pytest.mark.usefixtures("search_alone")
@pytest.mark.exhaustive
@tiers.parametrize("num_steps", [1, 10, 11, 137])
def test_takes_the_given_number_of_steps(num_steps):
    # The loss falls with every step, because the weight is large.
    attack = Walk(num_steps=num_steps, search_steps=1, initial_weight=100.0, learning_rate=1.0)
    x, y = np.zeros((2, 1), "float32"), np.array([0, 0])
    near = attack.run(line(num_steps - 0.5), x, y, kr.L2(1e4, None))
    assert near.success.all() and np.all(near.x_adv == num_steps)
    far = attack.run(line(num_steps + 0.5), x, y, kr.L2(1e4, None))
    assert not far.success.any() and np.all(far.x_adv == 0.0)
    # The other queries: the attack loss twice, one gradient, and the judgement of the result.
    assert np.all(far.queries == num_steps + 8)


@pytest.mark.usefixtures("search_alone")
def test_keeps_the_smallest_mistake_of_the_descent():
    attack = Walk(num_steps=30, search_steps=1, initial_weight=100.0, learning_rate=0.25)
    x, y = np.array([[0.0], [1.0]], "float32"), np.array([0, 0])
    found = attack.run(line(3.1), x, y, FAR)
    np.testing.assert_allclose(found.x_adv, [[3.25], [3.25]])
    np.testing.assert_allclose(found.loss, [-3.25, -2.25])


@pytest.mark.usefixtures("search_alone")
def test_each_example_stops_when_its_own_loss_stops_falling():
    # Per unit the lead falls by 2 and the penalty grows by 1. With c = 0.4 the loss grows from the
    # first step on, with c = 4 it falls until the class changes.
    attack = Walk(num_steps=40, search_steps=2, initial_weight=0.4, learning_rate=0.1)
    x, y = np.array([[0.0], [1.0]], "float32"), np.array([0, 0])
    found = attack.run(line(2.47), x, y, FAR)
    np.testing.assert_allclose(found.x_adv, [[2.5], [2.5]], atol=1e-5)
    # The loss is compared after blocks of 4 steps. The first c takes two blocks. With the second c
    # the class changes at steps 25 and 15; the next block ends lower than the one before, and the
    # block after it ends higher.
    assert found.queries.tolist() == [8 + 8 + 32, 8 + 8 + 20]


@tiers.parametrize("targeted", [False, True, "least_likely"])
@tiers.parametrize("confidence", [0.0, 0.6])
def test_the_hinge_and_its_gradient(targeted, confidence):
    x, y = numpy_reference.examples(8)
    y = np.where(np.arange(8) % 2, y, (y + 1) % 3)
    points = x[::-1].copy()
    classifier = models.Classifier(numpy_reference.keras_model())
    problem = kr.attacks.SearchProblem(classifier, x, y, FAR, seed=None)
    hinge = penalty_attack.make_hinge(problem, targeted, confidence)
    problem = penalty_attack.WeightedProblem(x, FAR, None, hinge)
    (values, hits), gradient = penalty_attack.hinge_gradient(problem, ops.convert_to_tensor(points))
    for i in range(8):
        one = penalty_reference.make_hinge(x[i], y[i], targeted, confidence)
        value, hit, slope = one(points[i].astype("float64"))
        assert float(values[i]) == pytest.approx(value, abs=1e-5)
        assert bool(hits[i]) == hit
        np.testing.assert_allclose(gradient[i], slope, rtol=0, atol=1e-5)
    assert 0 < np.sum(hits) < 8


def test_non_finite_logits_are_no_hit_and_have_no_gradient():
    def model(x):
        return ops.stack([x[:, 0], ops.sqrt(x[:, 1]) + x[:, 1]], axis=-1)

    x, y = np.array([[0.2, 0.1], [0.9, -0.1]], "float32"), np.array([0, 0])
    problem = kr.attacks.SearchProblem(models.Classifier(model), x, y, FAR, seed=None)
    hinge = penalty_attack.make_hinge(problem, False, 0.0)
    problem = penalty_attack.WeightedProblem(x, FAR, None, hinge)
    (_, hits), gradient = penalty_attack.hinge_gradient(problem, ops.convert_to_tensor(x))
    np.testing.assert_array_equal(hits, [True, False])
    assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("search_alone")
@pytest.mark.exhaustive
def test_examples_misclassified_from_the_start_are_unchanged():
    x, y = np.array([[0.0], [2.0]], "float32"), np.array([0, 0])
    found = Walk(learning_rate=1.0, num_steps=30, confidence=5.0).run(line(1.0), x, y, FAR)
    assert found.success.all() and found.x_adv[:, 0].tolist() == [4.0, 2.0]
    assert found.loss.tolist() == [-4.0, 0.0]
    assert found.queries[1] == 8 and found.queries[0] > 8


@pytest.mark.usefixtures("search_alone")
def test_without_labels_the_predictions_count():
    x = np.array([[0.0], [2.0]], "float32")
    found = Walk(num_steps=4, learning_rate=0.5, initial_weight=9.0).run(line(1.2), x, None, FAR)
    np.testing.assert_allclose(found.x_adv, [[1.5], [2.0]])
    assert found.success.tolist() == [True, False]
    with pytest.raises(ValueError, match="A targeted attack needs target labels"):
        Walk(targeted=True).run(line(1.2), x, None, FAR)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"search_steps": 1.5}, "`search_steps` must be an int >= 1. Received: 1.5"),
        ({"initial_weight": 0.0}, "`initial_weight` must be a number > 0. Received: 0.0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a number > 0. Received: nan"),
        ({"confidence": -1.0}, "`confidence` must be a number >= 0. Received: -1.0"),
        ({"targeted": "any"}, "`targeted` must be one of .*Received: 'any'"),
    ],
)
@pytest.mark.parametrize("cls", [kr.attacks.CarliniWagner, kr.attacks.EAD])
def test_wrong_arguments(cls, arguments, message):
    refusals.assert_argument_refused(cls, message, **arguments)


@pytest.mark.exhaustive
@tiers.parametrize("cls", [kr.attacks.CarliniWagner, kr.attacks.EAD])
def test_a_keras_model_that_ends_in_a_softmax_is_attacked_at_its_logits(cls):
    x, y = numpy_reference.examples(4)
    plain = numpy_reference.keras_model()
    inputs = keras.Input((numpy_reference.FEATURES,))
    softmax = keras.Model(inputs, keras.layers.Softmax()(50.0 * plain(inputs)))
    found = cls(num_steps=30, initial_weight=0.1, learning_rate=0.1).run(softmax, x, y, kr.L2(9.0))
    assert found.success.all() and not found.zero_gradient.any()
