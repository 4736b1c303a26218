import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import small_models

PGD, BIM = kr.attacks.PGD, kr.attacks.BIM
Linf = kr.threat_models.Linf


def two_basins(x, threshold):
    """Returns logits `(threshold, z)`; `z` rises from 0.5 by 1 to the right, 3 to the left."""
    delta = x[:, :1] - 0.5
    rise = keras.ops.relu(delta) + 3.0 * keras.ops.relu(-delta)
    return keras.ops.concatenate([threshold + 0.0 * delta, rise], axis=-1)


def easy(x):
    """Returns logits such that within 0.3 only the left basin has mistakes (0.9, not 0.3)."""
    return two_basins(x, 0.5)


def hard(x):
    """Returns logits such that neither basin has mistakes; the left one has the larger loss."""
    return two_basins(x, 2.0)


X, Y = np.full((16, 1), 0.5, "float32"), np.zeros(16, "int32")
BASINS = PGD(num_steps=4, step_size=0.2)


def test_restarts_keep_the_first_success_of_each_example():
    # With one short step the end shows the start, and a later success may have a larger loss.
    # Starts below 0.383 of (0.2, 0.8) succeed; of 40 restarts, all but one in a million examples
    # have such a start.
    attack = PGD(num_steps=1, step_size=0.05)
    one = attack.run(easy, X, Y, Linf(0.3))
    many = attack.clone(num_restarts=40).run(easy, X, Y, Linf(0.3))
    assert 1 < one.success.sum() < 12
    assert many.success.all()
    np.testing.assert_array_equal(many.x_adv[one.success], one.x_adv[one.success])
    assert np.all(many.x_adv < 0.5 - 0.5 / 3)


@pytest.mark.exhaustive
def test_restarts_keep_the_larger_loss_if_none_succeeds():
    one = BASINS.run(hard, X, Y, Linf(0.3))
    many = BASINS.clone(num_restarts=12).run(hard, X, Y, Linf(0.3))
    assert not many.success.any()
    assert 2 < np.isclose(one.x_adv, 0.8, atol=1e-6).sum() < 14
    np.testing.assert_allclose(many.x_adv, 0.2, atol=1e-6)
    np.testing.assert_allclose(many.loss, kr.losses.cross_entropy(Y, hard(many.x_adv)), rtol=1e-5)


def test_restarts_inside_a_train_step_keep_the_best_too():
    attack = BASINS.clone(num_restarts=8)
    found = attack.perturb(
        models.Classifier(easy),
        keras.ops.convert_to_tensor(X),
        Y,
        Linf(0.3),
        keras.ops.convert_to_tensor([1, 2]),
    )
    assert np.asarray(found.success).sum() >= 15
    np.testing.assert_array_equal(found.x_adv[:, 0] < 0.5, found.success)


def test_the_best_point_is_kept_and_not_the_last():
    # The loss has a peak at 0.6, and a long step overshoots it.
    def hat(x):
        return keras.ops.concatenate([0.3 + 0.0 * x, 0.3 - keras.ops.abs(x - 0.62)], axis=-1)

    x, y = np.array([[0.5], [0.58]], "float32"), np.array([0, 0])
    attack = BIM(num_steps=1, step_size=0.3)
    best = attack.run(hat, x, y, Linf(0.4))
    # One step of 0.3 leads to .8 and .88, where the loss is lower than at the example itself.
    np.testing.assert_array_equal(best.x_adv, x)
    last = attack.perturb(
        models.Classifier(hat), keras.ops.convert_to_tensor(x), y, Linf(0.4), None
    )
    np.testing.assert_allclose(last.x_adv, [[0.8], [0.88]], atol=1e-6)


def test_success_ranks_before_a_larger_loss():
    # Class 1 is predicted only between 0.5 and 0.7. The loss grows along all of .45, .55, .65, .75.
    def model(x):
        wins = keras.ops.cast(keras.ops.logical_and(x > 0.5, x < 0.7), "float32")
        return keras.ops.concatenate([1.0 + 0.0 * x, 0.9 + 0.2 * wins, x - 9.0], axis=-1)

    x, y = np.array([[0.45]], "float32"), np.array([0])
    attack = BIM(num_steps=3, step_size=0.1, loss=lambda y, logits: logits[:, 2])
    found = attack.run(model, x, y, Linf(0.4))
    assert found.success.tolist() == [True]
    np.testing.assert_allclose(found.x_adv, [[0.65]], atol=1e-6)
    np.testing.assert_allclose(found.loss, [0.65 - 9.0], rtol=1e-6)


def test_eot_averages_the_gradients_of_a_random_model():
    # Odd and even passes have the gradients (3, -1) and (-1, 2), with the mean (1, .5).
    x, y = keras.ops.full((2, 2), 0.2), np.array([0, 0])
    model = small_models.Alternating([3.0, -1.0], [-1.0, 2.0])
    classifier = models.Classifier(model)
    arguments = {"num_steps": 1, "random_start": False, "loss": "margin"}
    average = PGD(**arguments, eot_samples=2).perturb(classifier, x, y, Linf(0.1), None).x_adv
    np.testing.assert_allclose(average, np.full((2, 2), 0.3), atol=1e-6)
    single = PGD(**arguments).perturb(classifier, x, y, Linf(0.1), None).x_adv
    assert np.all(np.sign(single - x).sum(axis=-1) == 0.0)


def test_eot_averages_the_loss():
    x, y = keras.ops.full((1, 2), 0.2), np.array([0])
    seen = []

    def loss(y, logits):
        backends.observe(lambda value: seen.append(float(value)), logits[0, 1])
        return logits[:, 1]

    attack = PGD(num_steps=1, random_start=False, loss=loss, eot_samples=4)
    classifier = models.Classifier(small_models.Alternating([3.0, -1.0], [-1.0, 2.0]))
    found = attack.search(kr.attacks.SearchProblem(classifier, x, y, Linf(0.1), None))
    # One pass at x, four for the gradient, one at the end.
    assert len(seen) == 6
    assert np.mean(seen[1:5]) == pytest.approx(0.3, abs=1e-6)
    assert float(found.loss[0]) == pytest.approx(max(seen[0], np.mean(seen[1:5]), seen[5]))


def test_zero_gradients_are_reported_per_example():
    # The loss is saturated for the second example only.
    def model(x):
        return keras.ops.concatenate([keras.ops.relu(x[:, :1] - 0.5), 0.0 * x[:, :1]], axis=-1)

    x, y = np.array([[0.9], [0.2]], "float32"), np.array([0, 0])
    found = BIM(num_steps=2).run(model, x, y, Linf(0.1))
    assert found.zero_gradient.tolist() == [False, True]
    np.testing.assert_allclose(found.x_adv, [[0.8], [0.2]], atol=1e-6)


def test_targeted_ends_in_the_target_class():
    x, y = numpy_reference.examples()
    target = (y + 1) % 3
    attack = PGD(num_steps=20, targeted=True)
    found = attack.run(numpy_reference.keras_model(), x, target, kr.threat_models.L2(1.5))
    assert found.success.all()
    np.testing.assert_array_equal(numpy_reference.logits(found.x_adv).argmax(-1), target)


def test_targeted_leaves_examples_of_the_target_class_unchanged():
    x, y = numpy_reference.examples()
    target = np.where(np.arange(len(y)) == 2, y, (y + 1) % 3)
    attack = PGD(num_steps=3, targeted=True)
    x_adv = attack(numpy_reference.keras_model(), x, target, kr.threat_models.L2(0.2))
    still = np.abs(x_adv - x).max(axis=-1) == 0.0
    np.testing.assert_array_equal(still, [False, False, True, False, False])


@pytest.mark.parametrize("step_size", [0.02, "1/50", "0.02"])
def test_step_size_is_a_number_or_a_string(step_size):
    x, y = numpy_reference.examples()
    expected = numpy_reference.attack(x, y, "Linf", 0.1, None, step_size=0.02, num_steps=1)
    attack = BIM(num_steps=1, step_size=step_size)
    x_adv = attack(numpy_reference.keras_model(), x, y, Linf(0.1, None))
    np.testing.assert_allclose(x_adv, expected, rtol=0, atol=1e-6)
    assert attack.get_config()["step_size"] == step_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"num_steps": 2.5}, "`num_steps` must be an int >= 1. Received: 2.5"),
        ({"num_restarts": 0}, "`num_restarts` must be an int >= 1. Received: 0"),
        ({"eot_samples": -1}, "`eot_samples` must be an int >= 1. Received: -1"),
        ({"step_size": -1}, "`step_size` must be a positive number .* Received: step_size=-1"),
        ({"step_size": 0.0}, "`step_size` must be a positive number .* Received: step_size=0.0"),
        ({"step_size": float("inf")}, "`step_size` must be a positive number .*step_size=inf"),
        ({"step_size": float("nan")}, "`step_size` must be a positive number .*step_size=nan"),
        ({"step_size": "two"}, "a string such as '2/255'. Received: step_size='two'"),
        ({"random_start": "uniform"}, r"`random_start` must be one of \(True, False, 'gaussian'\)"),
        ({"random_start": 1}, "`random_start` must be one of .* Received: 1"),
        ({"targeted": "most_likely"}, "`targeted` must be one of .*'least_likely'.*'most_likely'"),
        ({"targeted": None}, "`targeted` must be one of .* Received: None"),
        (
            {"loss": "hinge"},
            "`loss` must be one of .*'cross_entropy', 'dlr', 'kl', 'margin'.*hinge",
        ),
        (
            {"num_restarts": 2, "random_start": False},
            "Restarts need a random start.*num_restarts=2",
        ),
        ({"num_restarts": 2, "loss": "compiled"}, "a loss per example.*loss='compiled'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    refusals.assert_argument_refused(PGD, message, **arguments)


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: kr.attacks.BIM(loss="kl"), "random_start=False"),
        (lambda: kr.attacks.PGD(loss="kl", targeted=True), "targeted=True"),
    ],
)
def test_the_divergence_needs_a_random_start_and_no_target(make, received):
    with pytest.raises(ValueError, match=f'The loss "kl" has no gradient.*{received}'):
        make()
