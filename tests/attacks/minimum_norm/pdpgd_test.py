import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

PDPGD = kr.attacks.PDPGD
ORDER = {"L1": 1, "L2": 2, "Linf": np.inf}
DUAL = {"L1": "Linf", "L2": "L2", "Linf": "L1"}
BOXES = {"box": (0.0, 1.0), "free": None}


def unbounded(norm, bounds=(0.0, 1.0)):
    return getattr(kr.threat_models, norm)(0.1, bounds).with_epsilon(np.float32(np.inf))


@tiers.parametrize("bounds", BOXES.values(), ids=BOXES)
@tiers.parametrize("norm", ORDER)
def test_comes_near_a_hyperplane(norm, bounds):
    x, y = linear_model.examples(20)
    found = PDPGD().run(linear_model.logits, x, y, unbounded(norm, bounds))
    assert found.success.all() and np.all(linear_model.margin(found.x_adv, y) > 0.0)
    size = np.linalg.norm((found.x_adv - x).reshape(20, -1), ord=ORDER[norm], axis=-1)
    np.testing.assert_allclose(-found.loss, size, rtol=1e-5)
    exact = linear_model.distance(x, y, norm, bounds)
    assert np.all(size >= exact * (1.0 - 1e-5)) and np.median(size / exact) < 1.02


def reference(x, label, norm, num_steps, step_size=0.1, dual_step_size=0.1):
    """Returns the search in float64 for one example, on the network of `numpy_reference`."""
    x = x.astype("float64")
    delta, mean, square = np.zeros((3, len(x)))
    best, nearest, log_ratio = np.inf, x, np.log(100.0)
    share = 1.0 / (1.0 + np.exp(-log_ratio))
    for step in range(num_steps + 1):
        logits = numpy_reference.logits((x + delta)[None])[0]
        lead = logits[label] - np.max(np.delete(logits, label))
        size = np.linalg.norm(delta, ORDER[norm])
        if lead < 0.0 and size < best:
            best, nearest = size, x + delta
        if step == num_steps:
            return best, nearest
        slope = -numpy_reference.gradient((x + delta)[None], np.array([label]), "margin")[0]
        slope = slope / (1.0 + np.exp(-lead)) if lead > 0.0 else np.zeros(len(x))
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        metric = np.sqrt(square / (1.0 - 0.999 ** (step + 1))) + 1e-8
        rate = step_size * 0.01 ** (step / num_steps)
        moved = delta - rate * mean / (1.0 - 0.9 ** (step + 1)) / metric
        moved = delta = np.clip(x + moved, 0.0, 1.0) - x
        radius = (1.0 - share) / share * rate / metric.max()
        for _ in range(5):
            ahead = delta + metric / metric.max() * (moved - delta)
            ball = numpy_reference.project(
                ahead[None], np.zeros((1, len(x))), DUAL[norm], radius, None
            )
            delta = np.clip(x + ahead - ball[0], 0.0, 1.0) - x
        change = dual_step_size * (1.0 - 0.9 * step / (num_steps - 1))
        log_ratio = np.clip(log_ratio + change * np.sign(lead), -np.log(1e6), np.log(1e6))
        share = 0.9 * share + 0.1 / (1.0 + np.exp(-log_ratio))


SETTINGS = {"step_size": 0.3, "dual_step_size": 1.0}


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize(("norm", "arguments"), [(norm, SETTINGS) for norm in ORDER] + [("L2", {})])
def test_every_step_is_the_float64_step(norm, arguments):
    x, y = numpy_reference.examples(6)
    attack = PDPGD(num_steps=12, **arguments)
    found = attack.run(numpy_reference.keras_model(), x, y, unbounded(norm))
    expected = [
        reference(one, label, norm, 12, **arguments) for one, label in zip(x, y, strict=True)
    ]
    assert found.success.sum() >= 4
    distances = np.where(found.success, -found.loss, np.inf)
    np.testing.assert_allclose(distances, [size for size, _ in expected], rtol=1e-3)
    np.testing.assert_allclose(found.x_adv, np.stack([point for _, point in expected]), atol=1e-3)


@pytest.mark.exhaustive
def test_the_step_is_a_share_of_the_width_of_the_box():
    # Scaling everything by 10 scales the result by 10.
    x, y = linear_model.examples(20)
    small = PDPGD().run(linear_model.logits, x, y, unbounded("L2", (0.0, 1.0)))
    large = PDPGD().run(
        lambda x: linear_model.logits(0.1 * x), 10.0 * x, y, unbounded("L2", (0.0, 10.0))
    )
    np.testing.assert_allclose(large.loss, 10.0 * small.loss, rtol=2e-3)


@pytest.mark.exhaustive
def test_targeted_reaches_the_target():
    x, y = numpy_reference.examples(6)
    target = (y + 1) % 3
    found = PDPGD(targeted=True).run(numpy_reference.keras_model(), x, target, unbounded("L2"))
    reached = np.argmax(numpy_reference.logits(found.x_adv.astype("float64")), axis=-1)
    assert found.success.sum() >= 4
    np.testing.assert_array_equal(found.success, reached == target)


@pytest.mark.exhaustive
@tiers.parametrize("norm", ORDER)
def test_a_constant_model_leaves_the_example_unchanged(norm):
    def constant(x):
        return keras.ops.stack([0.0 * x[:, 0] + 1.0, 0.0 * x[:, 1]], axis=-1)

    x = np.array([[0.5, 0.5], [0.1, 0.9]], "float32")
    found = PDPGD(num_steps=20).run(constant, x, np.array([0, 0]), unbounded(norm))
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any() and found.zero_gradient.all()
    assert np.all(found.loss < -1e38)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"step_size": 0.0}, "`step_size` must be a number > 0. Received: 0.0"),
        ({"dual_step_size": -1.0}, "`dual_step_size` must be a number > 0. Received: -1.0"),
        ({"targeted": "all"}, "`targeted` must be one of .*Received: 'all'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(PDPGD, message, **arguments)


def test_needs_one_of_three_norms():
    x, y = linear_model.examples(2)
    with pytest.raises(ValueError, match=r"PDPGD .* L1, L2 or Linf. Received: L0\("):
        PDPGD().run(linear_model.logits, x, y, kr.L0(3))
