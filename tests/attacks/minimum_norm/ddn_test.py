import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

DDN = kr.attacks.DDN
BOXES = {"box": (0.0, 1.0), "free": None}


def unbounded(bounds=(0.0, 1.0)):
    return kr.L2(0.1, bounds).with_epsilon(np.float32(np.inf))


@tiers.parametrize("bounds", BOXES.values(), ids=BOXES)
def test_comes_within_a_part_in_a_thousand_of_a_hyperplane(bounds):
    x, y = linear_model.examples(20)
    found = DDN().run(linear_model.logits, x, y, unbounded(bounds))
    assert found.success.all() and np.all(linear_model.margin(found.x_adv, y) > 0.0)
    size = np.linalg.norm((found.x_adv - x).reshape(20, -1), axis=-1)
    np.testing.assert_allclose(-found.loss, size, rtol=1e-5)
    np.testing.assert_allclose(size, linear_model.distance(x, y, "L2", bounds), rtol=2e-3)


def reference(x, label, num_steps, gamma=0.05, length=1.0):
    """Returns the search in float64 for one example, on the network of `numpy_reference`."""
    x = x.astype("float64")
    delta, best, nearest = np.zeros_like(x), np.inf, x
    farthest = np.linalg.norm(np.maximum(x, 1.0 - x))
    for step in range(num_steps + 1):
        wrong = np.argmax(numpy_reference.logits((x + delta)[None])[0]) != label
        size = np.linalg.norm(delta)
        if wrong and size < best:
            best, nearest = size, x + delta
        length = min(length * (1.0 - gamma if wrong else 1.0 + gamma), farthest)
        alpha = 0.01 + 0.99 * 0.5 * (1.0 + np.cos(np.pi * step / num_steps))
        gradient = numpy_reference.gradient((x + delta)[None], np.array([label]))[0]
        delta = delta + alpha * gradient / np.linalg.norm(gradient)
        delta = linear_model.farthest(delta, x, "L2", length)
    return best, nearest


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize("arguments", [{"gamma": 0.2, "initial_norm": 0.4}, {}])
def test_every_step_is_the_float64_step(arguments):
    x, y = numpy_reference.examples(6)
    found = DDN(num_steps=12, **arguments).run(numpy_reference.keras_model(), x, y, unbounded())
    settings = (arguments.get("gamma", 0.05), arguments.get("initial_norm", 1.0))
    expected = [reference(one, label, 12, *settings) for one, label in zip(x, y, strict=True)]
    assert found.success.sum() >= 4
    distances = np.where(found.success, -found.loss, np.inf)
    np.testing.assert_allclose(distances, [size for size, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(found.x_adv, np.stack([point for _, point in expected]), atol=1e-4)


@pytest.mark.exhaustive
def test_lengths_are_shares_of_the_width_of_the_box():
    # Scaling everything by 10 scales the result by 10.
    x, y = numpy_reference.examples(6)
    model, attack = numpy_reference.keras_model(), DDN(num_steps=20, initial_norm=0.5)
    small = attack.run(model, x, y, unbounded())
    large = attack.run(lambda x: model(0.1 * x), 10.0 * x, y, unbounded((0.0, 10.0)))
    np.testing.assert_allclose(large.x_adv, 10.0 * small.x_adv, rtol=0, atol=1e-3)


def test_a_confident_model_has_a_direction_too():
    # The gradient of the cross-entropy rounds to 0 at a lead of hundreds.
    x, y = linear_model.examples(8)
    found = DDN(num_steps=60).run(lambda x: 300.0 * linear_model.logits(x), x, y, unbounded())
    exact = linear_model.distance(x, y, "L2", (0.0, 1.0))
    np.testing.assert_allclose(-found.loss, exact, rtol=0.02)
    assert not found.zero_gradient.any()


@pytest.mark.exhaustive
def test_targeted_reaches_the_target():
    x, y = numpy_reference.examples(6)
    target = (y + 1) % 3
    found = DDN(targeted=True).run(numpy_reference.keras_model(), x, target, unbounded())
    reached = np.argmax(numpy_reference.logits(found.x_adv.astype("float64")), axis=-1)
    assert found.success.sum() >= 4
    np.testing.assert_array_equal(found.success, reached == target)


@pytest.mark.exhaustive
def test_a_constant_model_leaves_the_example_unchanged():
    def constant(x):
        return keras.ops.stack([0.0 * x[:, 0] + 1.0, 0.0 * x[:, 1]], axis=-1)

    x = np.array([[0.5, 0.5], [0.1, 0.9]], "float32")
    found = DDN(num_steps=20).run(constant, x, np.array([0, 0]), unbounded())
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any() and found.zero_gradient.all()
    assert np.all(found.loss < -1e38)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"gamma": 1.0}, "`gamma` must be a number > 0 and < 1.0. Received: 1.0"),
        ({"initial_norm": 0.0}, "`initial_norm` must be a number > 0. Received: 0.0"),
        ({"targeted": "all"}, "`targeted` must be one of .*Received: 'all'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(DDN, message, **arguments)


def test_needs_l2():
    x, y = linear_model.examples(2)
    with pytest.raises(ValueError, match=r"DDN .* needs the threat model L2.*Received: Linf\("):
        DDN().run(linear_model.logits, x, y, kr.Linf(0.1))
