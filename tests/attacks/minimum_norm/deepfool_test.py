import keras
import numpy as np
import pytest
from scipy import optimize

import keras_robust as kr
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

DeepFool = kr.attacks.DeepFool
NORMS = {"L1": 1, "L2": 2, "Linf": np.inf}


def ball(norm, bounds=(0.0, 1.0)):
    """Returns a ball that contains every mistake."""
    return getattr(kr, norm)(0.5, bounds).with_epsilon(np.float32(1e6))


def nearest(x, y, norm, bounds):
    """Returns the distance from an example to the boundary of the linear model."""

    def gap(radius):
        return linear_model.margin(linear_model.best(x[None], [y], norm, radius, bounds), [y])[0]

    return optimize.brentq(gap, 1e-4, 20.0)


@tiers.parametrize("bounds", [(0.0, 1.0), None])
@tiers.parametrize("norm", NORMS)
def test_is_exact_on_a_linear_model(norm, bounds):
    x, y = linear_model.examples()
    found = DeepFool().run(linear_model.logits, x, y, ball(norm, bounds))
    expected = np.array([nearest(*row, norm, bounds) for row in zip(x, y, strict=True)])
    assert found.success.all()
    # The tolerance comes from 12 bisection steps over 1.02 times the distance, and from a lead of
    # 1e-5 of the largest logit. The bisection in L1, and in L2 from a side of the box, reduces all
    # coordinates and not only the best one.
    rtol = {"L1": 3e-3, "L2": 2e-3 if bounds else 1e-3}.get(norm, 1e-3)
    np.testing.assert_allclose(-found.loss, expected, rtol=rtol)
    assert np.all(linear_model.margin(found.x_adv.astype("float64"), y) > 0.0)
    # One step per example, with one gradient and one judged point. The rest are queries of the base
    # class.
    np.testing.assert_array_equal(found.queries, 3 + 6 + 13)


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize("bounds", [(0.0, 1.0), None])
@tiers.parametrize("norm", NORMS)
def test_without_overshoot_one_step_ends_just_behind_the_boundary(norm, bounds):
    x, y = linear_model.examples()
    found = DeepFool(overshoot=0.0).run(linear_model.logits, x, y, ball(norm, bounds))
    expected = np.array([nearest(*row, norm, bounds) for row in zip(x, y, strict=True)])
    # The excess of 1e-4 belongs to a step without a box. The box can make it longer.
    beyond = -found.loss - expected
    assert beyond.min() > 0.9e-4 and beyond.max() < 1.5e-4


@pytest.mark.usefixtures("search_alone")
@pytest.mark.exhaustive
@tiers.parametrize("norm", NORMS)
def test_the_overshoot_is_a_share_of_the_perturbation(norm):
    x, y = linear_model.examples()
    exact, longer = (
        DeepFool(overshoot=overshoot).run(linear_model.logits, x, y, ball(norm)).x_adv
        for overshoot in (0.0, 0.1)
    )
    np.testing.assert_allclose(longer, np.clip(x + 1.1 * (exact - x), 0.0, 1.0), rtol=0, atol=1e-6)


def reference(x, y, norm, num_classes=10, overshoot=0.02, num_steps=50):
    """Returns the result of the authors' loop for one example, in float64, and its steps."""
    clean = numpy_reference.logits(x)
    others = [k for k in np.argsort(-clean) if k != y][: num_classes - 1]
    dual = {"L1": np.inf, "L2": 2, "Linf": 1}[norm]
    hidden, head = numpy_reference.HIDDEN, numpy_reference.HEAD
    total, point, steps = 0.0 * x, x, 0
    while np.argmax(numpy_reference.logits(point)) == y and steps < num_steps:
        z = numpy_reference.logits(point)
        inner = 1.0 - np.tanh(point @ hidden[0] + hidden[1]) ** 2
        rows = {k: hidden[0] @ (inner * (head[0][:, k] - head[0][:, y])) for k in others}
        shares = {k: abs(z[k] - z[y]) / np.linalg.norm(rows[k], dual) for k in others}
        k = min(shares, key=shares.get)
        w = rows[k]
        direction = {
            "L1": np.sign(w) * (np.abs(w) == np.abs(w).max()),
            "L2": w / np.linalg.norm(w),
            "Linf": np.sign(w),
        }[norm]
        total = total + (shares[k] + 1e-4) * direction
        point, steps = x + (1.0 + overshoot) * total, steps + 1
    return point, steps, np.argmax(numpy_reference.logits(point)) != y


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize(
    ("norm", "arguments"),
    [
        ("L1", {}),
        ("L2", {}),
        ("Linf", {}),
        ("L2", {"num_classes": 2}),
        ("Linf", {"overshoot": 0.3}),
        ("L1", {"num_steps": 1, "overshoot": 0.0}),
    ],
)
def test_is_the_loop_of_the_authors(norm, arguments):
    x, y = numpy_reference.examples(12)
    found = DeepFool(**arguments).run(numpy_reference.keras_model(), x, y, ball(norm, None))
    rows = zip(x.astype("float64"), y, strict=True)
    points, steps, success = zip(*(reference(*row, norm, **arguments) for row in rows), strict=True)
    np.testing.assert_array_equal(found.success, success)
    expected = np.where(np.array(success)[:, None], np.stack(points), x)
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=1e-4)
    per_step = 1 + 2 * (min(arguments.get("num_classes", 10), 3) - 1)
    np.testing.assert_array_equal(found.queries, 6 + per_step * np.array(steps))
    assert len(set(steps)) > 1 or arguments.get("num_steps") == 1


@pytest.mark.exhaustive
def test_compares_only_the_most_likely_classes():
    def model(x):
        # The third class is the least likely and the nearest.
        return keras.ops.stack([1.0 - 0.0 * x[:, 0], x[:, 0], 10.0 * (x[:, 1] - 0.1)], axis=-1)

    x, y = np.array([[0.2, 0.1]], "float32"), np.array([0])
    found = DeepFool(num_classes=3).run(model, x, y, ball("L2", None))
    np.testing.assert_allclose(found.x_adv, [[0.2, 0.2]], atol=0.005)
    found = DeepFool(num_classes=2).run(model, x, y, ball("L2", None))
    np.testing.assert_allclose(found.x_adv, [[1.0, 0.1]], atol=0.03)


@pytest.mark.exhaustive
@tiers.parametrize("norm", NORMS)
def test_stays_in_the_box_and_is_judged_in_the_ball(norm):
    x, y = linear_model.examples()
    bounds = (np.array([-0.1, 0.0]), np.array([1.0, 1.2]))
    radius = 0.6 * linear_model.EPSILON[norm]
    found = DeepFool().run(linear_model.logits, x, y, getattr(kr, norm)(radius, bounds))
    every = [np.tile(bound, 6) for bound in bounds]
    expected = np.array([nearest(*row, norm, every) for row in zip(x, y, strict=True)])
    np.testing.assert_array_equal(found.success, expected < radius)
    assert 0 < found.success.sum() < len(x)
    assert np.all(found.x_adv >= bounds[0]) and np.all(found.x_adv <= bounds[1])
    size = np.linalg.norm((found.x_adv - x).reshape(len(x), -1), NORMS[norm], axis=-1)
    assert size.max() <= radius + 1e-6


@pytest.mark.exhaustive
def test_examples_without_a_mistake_are_unchanged():
    def model(x):
        # The first example reaches no other class in the box, and the second has zero gradients.
        scores = keras.ops.stack([x[:, 0] + 2.0, x[:, 1]], axis=-1)
        return keras.ops.where(x[:, 1:] > 0.3, scores, keras.ops.cast([1.0, 0.0], "float32"))

    x = np.array([[0.5, 0.5], [0.9, 0.1]], "float32")
    found = DeepFool(num_steps=7).run(model, x, np.array([0, 0]), ball("L2"))
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any()
    assert found.zero_gradient.tolist() == [False, True]
    # The search ends after a zero gradient.
    assert found.queries.tolist() == [6 + 7 * 3, 6 + 3]


@pytest.mark.usefixtures("search_alone")
@pytest.mark.exhaustive
def test_examples_misclassified_from_the_start_are_unchanged():
    x, y = numpy_reference.examples(4)
    wrong = np.where(np.arange(4) % 2, (y + 1) % 3, y)
    found = DeepFool().run(numpy_reference.keras_model(), x, wrong, ball("L2"))
    np.testing.assert_array_equal(found.x_adv[1::2], x[1::2])
    assert found.success.all() and np.all(found.loss[1::2] == 0.0)
    assert np.all(found.queries[1::2] == 6) and np.all(found.queries[::2] > 6)


@pytest.mark.exhaustive
def test_an_example_does_not_depend_on_the_rest_of_the_batch():
    x, y = numpy_reference.examples(4)
    model = numpy_reference.keras_model()
    together = DeepFool().run(model, x, y, ball("Linf"))
    for i in range(4):
        alone = DeepFool().run(model, x[i : i + 1], y[i : i + 1], ball("Linf"))
        np.testing.assert_allclose(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-5)
        assert alone.queries[0] == together.queries[i]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be at least 2.*Received: 1"),
        ({"num_classes": 2.0}, "`num_classes` must be an int >= 1. Received: 2.0"),
        ({"num_steps": 0}, "`num_steps` must be an int >= 1. Received: 0"),
        ({"overshoot": -0.1}, "`overshoot` must be a number >= 0. Received: -0.1"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(DeepFool, message, **arguments)


def test_needs_one_norm():
    x, y = numpy_reference.examples(2)
    several = kr.threat_models.PerInput({"a": "linf", "b": "linf"})
    model = numpy_reference.keras_model()

    def summed(inputs):
        return model(inputs["a"] + inputs["b"])

    with pytest.raises(ValueError, match="need one norm: L1, L2 or Linf"):
        DeepFool().run(summed, {"a": x, "b": 0.0 * x}, y, several)
