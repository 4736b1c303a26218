import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

FMN = kr.attacks.FMN
DUAL = {"Linf": 1, "L2": 2, "L1": np.inf}
ORDER = {"Linf": np.inf, "L2": 2, "L1": 1}
BOXES = {"box": (0.0, 1.0), "free": None}


def unbounded(norm, bounds=(0.0, 1.0)):
    return getattr(kr.threat_models, norm)(0.1, bounds).with_epsilon(np.float32(np.inf))


@tiers.parametrize("bounds", BOXES.values(), ids=BOXES)
@tiers.parametrize("norm", ORDER)
def test_comes_within_a_part_in_a_thousand_of_a_hyperplane(norm, bounds):
    x, y = linear_model.examples(20)
    found = FMN().run(linear_model.logits, x, y, unbounded(norm, bounds))
    assert found.success.all() and np.all(linear_model.margin(found.x_adv, y) > 0.0)
    size = np.linalg.norm((found.x_adv - x).reshape(20, -1), ord=ORDER[norm], axis=-1)
    np.testing.assert_allclose(-found.loss, size, rtol=1e-5)
    np.testing.assert_allclose(size, linear_model.distance(x, y, norm, bounds), rtol=2e-3)


@pytest.mark.exhaustive
def test_l0_changes_the_minimal_number_of_features():
    x, y = linear_model.examples(20)
    found = FMN().run(linear_model.logits, x, y, counting())
    fewest = linear_model.fewest_features(x, y)
    needed = np.sum(found.x_adv != x, axis=(1, 2, 3))
    np.testing.assert_array_equal(-found.loss, needed)
    assert np.all(needed >= fewest) and np.mean(needed == fewest) >= 0.9


def counting():
    return kr.L0(1).with_epsilon(np.float32(np.inf))


def reference(x, label, norm, num_steps, step_size=1.0, gamma=0.05):
    """Returns the search in float64 for one example, on the network of `numpy_reference`."""
    x = x.astype("float64")
    low, high, delta, radius, best = 0.0, 1.0, np.zeros_like(x), np.inf, np.inf
    nearest, y = x, np.array([label])
    farthest = np.linalg.norm(np.maximum(x - low, high - x), ORDER[norm])

    def is_nearer():
        wrong = np.argmax(numpy_reference.logits((x + delta)[None])[0]) != label
        return wrong, np.linalg.norm(delta, ORDER[norm])

    for step in range(num_steps):
        fall = 0.5 * (1.0 + np.cos(np.pi * step / num_steps))
        length = step_size / 100 + (step_size - step_size / 100) * fall
        share = gamma / 50 + (gamma - gamma / 50) * fall
        logits = numpy_reference.logits((x + delta)[None])[0]
        lead = np.max(np.delete(logits, label)) - logits[label]
        gradient = numpy_reference.gradient((x + delta)[None], y, "margin")[0]
        wrong, size = is_nearer()
        if wrong and size < best:
            best, nearest = size, x + delta
        if wrong:
            radius = min((1 - share) * radius, best)
        elif np.isfinite(best):
            radius = (1 + share) * radius
        else:
            slope = np.linalg.norm(gradient, DUAL[norm])
            radius = (1 + share) * (size + abs(lead) / slope)
        radius = min(radius, farthest)
        moved = x + delta + length * gradient / np.linalg.norm(gradient)
        box = (np.full((1, len(x)), low), np.full((1, len(x)), high))
        delta = numpy_reference.project(moved[None], x[None], norm, radius, box)[0] - x
    wrong, size = is_nearer()
    return (size, x + delta) if wrong and size < best else (best, nearest)


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize("arguments", [{}, {"step_size": 0.3, "gamma": 0.2}])
@tiers.parametrize("norm", ORDER)
def test_every_step_is_the_float64_step(norm, arguments):
    x, y = numpy_reference.examples(6)
    attack = FMN(num_steps=12, **arguments)
    found = attack.run(numpy_reference.keras_model(), x, y, unbounded(norm))
    settings = {"step_size": 10.0 if norm == "Linf" else 1.0, **arguments}
    expected = [
        reference(one, label, norm, 12, **settings) for one, label in zip(x, y, strict=True)
    ]
    assert found.success.sum() >= 4
    distances = np.where(found.success, -found.loss, np.inf)
    np.testing.assert_allclose(distances, [size for size, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(found.x_adv, np.stack([point for _, point in expected]), atol=1e-4)


@pytest.mark.exhaustive
def test_the_step_is_a_share_of_the_width_of_the_box():
    # Scaling everything by 10 scales the result by 10.
    x, y = numpy_reference.examples(6)
    model = numpy_reference.keras_model()
    small = FMN(num_steps=20).run(model, x, y, unbounded("L2"))
    large = FMN(num_steps=20).run(
        lambda x: model(0.1 * x), 10.0 * x, y, unbounded("L2", (0.0, 10.0))
    )
    np.testing.assert_allclose(large.x_adv, 10.0 * small.x_adv, rtol=0, atol=1e-3)


@pytest.mark.exhaustive
def test_points_outside_of_the_ball_are_no_success():
    x, y = linear_model.examples(20)
    attack = FMN()
    far = attack.run(linear_model.logits, x, y, unbounded("L2"))
    ball = kr.L2(float(np.median(-far.loss)))
    near = attack.run(linear_model.logits, x, y, ball)
    np.testing.assert_array_equal(near.success, -far.loss <= ball.epsilon)
    np.testing.assert_allclose(near.loss, far.loss, rtol=1e-6)
    assert np.all(np.linalg.norm((near.x_adv - x).reshape(20, -1), axis=-1) <= ball.epsilon + 1e-6)


@pytest.mark.exhaustive
def test_targeted_reaches_the_target():
    x, y = numpy_reference.examples(6)
    model = numpy_reference.keras_model()
    target = (y + 1) % 3
    found = FMN(targeted=True).run(model, x, target, unbounded("L2"))
    reached = np.argmax(numpy_reference.logits(found.x_adv.astype("float64")), axis=-1)
    assert found.success.sum() >= 4
    np.testing.assert_array_equal(found.success, reached == target)


@pytest.mark.usefixtures("search_alone")
@pytest.mark.exhaustive
def test_two_passes_a_step_are_counted():
    x, y = linear_model.examples(3)
    found = FMN(num_steps=7).run(linear_model.logits, x, y, unbounded("Linf"))
    # The other queries are the last point, the clean point and two more judgements of the base
    # class.
    np.testing.assert_array_equal(found.queries, [2 * 7 + 2 + 3] * 3)


@pytest.mark.exhaustive
@tiers.parametrize("norm", ["L0", "L1", "L2", "Linf"])
def test_a_constant_model_leaves_the_example_unchanged(norm):
    def constant(x):
        return keras.ops.stack([0.0 * x[:, 0] + 1.0, 0.0 * x[:, 1]], axis=-1)

    x = np.array([[0.5, 0.5], [0.1, 0.9]], "float32")
    ball = counting() if norm == "L0" else unbounded(norm)
    found = FMN(num_steps=20).run(constant, x, np.array([0, 0]), ball)
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any() and found.zero_gradient.all()
    assert np.all(found.loss < -1e38)


@pytest.mark.exhaustive
def test_a_non_finite_gradient_does_not_spread():
    def broken(x):
        # The square root has an infinite slope at 0, and is NaN below.
        return keras.ops.stack([keras.ops.sqrt(x[:, 0]), x[:, 1]], axis=-1)

    x = np.array([[0.0, -0.1], [0.5, 0.2]], "float32")
    found = FMN(num_steps=30).run(broken, x, np.array([0, 0]), unbounded("L2", (-1.0, 1.0)))
    assert np.isfinite(found.x_adv).all() and found.success.all()
    assert np.abs(found.x_adv).max() <= 1.0


@pytest.mark.exhaustive
def test_an_example_does_not_depend_on_the_rest_of_the_batch():
    x, y = numpy_reference.examples(4)
    model = numpy_reference.keras_model()
    attack = FMN(num_steps=9)
    together = attack.run(model, x, y, unbounded("L1"))
    for i in range(4):
        alone = attack.run(model, x[i : i + 1], y[i : i + 1], unbounded("L1"))
        np.testing.assert_allclose(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"step_size": 0.0}, "`step_size` must be a number > 0. Received: 0.0"),
        ({"step_size": "1"}, "`step_size` must be a number > 0. Received: '1'"),
        ({"gamma": 1.0}, "`gamma` must be a number > 0 and < 1.0. Received: 1.0"),
        ({"targeted": "all"}, "`targeted` must be one of .*Received: 'all'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(FMN, message, **arguments)
