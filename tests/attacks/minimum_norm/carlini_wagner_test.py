import keras
import numpy as np
import pytest
from scipy import optimize

import keras_robust as kr
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import penalty_reference
from tests.support import refusals
from tests.support import tiers

CarliniWagner = kr.attacks.CarliniWagner
FAR = kr.L2(10.0)
QUICK = {"num_steps": 14, "search_steps": 5, "initial_weight": 0.1}


def adam(learning_rate, num_steps, bounds):
    """Returns the descent in NumPy; the squeezed start is that of the authors."""

    def descent(x, weight, hinge):
        low, high = (0.0, 1.0) if bounds is None else bounds
        middle, half = 0.5 * (np.add(low, high)), 0.5 * np.subtract(high, low)
        w = 0.0 * x if bounds is None else np.arctanh(0.999999 * (x - middle) / half)
        mean, square = 0.0 * x, 0.0 * x
        for step in range(1, num_steps + 1):
            point = x + w if bounds is None else middle + half * np.tanh(w)
            slope = 1.0 if bounds is None else half * (1.0 - np.tanh(w) ** 2)
            value, hit, gradient = hinge(point)
            size = np.sum((point - x) ** 2)
            yield point, size + weight * value, size, hit
            gradient = slope * (2.0 * (point - x) + weight * gradient)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            scale = np.sqrt(square / (1.0 - 0.999**step)) + 1e-8
            w = w - learning_rate * mean / (1.0 - 0.9**step) / scale

    return descent


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize(
    ("arguments", "bounds"),
    [
        ({}, (0.0, 1.0)),
        ({}, None),
        ({"confidence": 0.7}, (np.linspace(-1.0, 0.0, 6), np.linspace(1.0, 1.5, 6))),
        ({"targeted": "least_likely", "num_steps": 25}, (0.0, 1.0)),
        ({"targeted": True, "learning_rate": 0.2}, (0.0, 1.0)),
        ({"search_steps": 1, "initial_weight": 3.0}, (-1.0, 2.0)),
    ],
)
def test_is_the_search_of_the_authors(arguments, bounds):
    x, y = numpy_reference.examples(8)
    if arguments.get("targeted") is True:
        y = (y + 1) % 3
    settings = {"learning_rate": 0.1, **QUICK, **arguments}
    found = CarliniWagner(**settings).run(numpy_reference.keras_model(), x, y, kr.L2(10.0, bounds))
    descent = adam(settings.pop("learning_rate"), settings["num_steps"], bounds)
    points, success, steps = penalty_reference.search_all(x, y, descent, **settings)
    np.testing.assert_array_equal(found.success, success)
    np.testing.assert_allclose(found.x_adv, points, rtol=0, atol=1e-3)
    # The gradients, and the queries of the base classes.
    np.testing.assert_array_equal(found.queries, 2 * np.array(steps) + 8)
    assert len(set(steps)) > 1 and any(success)


def nearest(x, y, bounds, lead=0.0):
    """Returns the distance at which the wrong class leads by `lead` in the linear model."""

    def gap(radius):
        best = linear_model.best(x[None], [y], "L2", radius, bounds)
        return linear_model.margin(best, [y])[0] - lead

    return optimize.brentq(gap, 1e-4, 5.0)


@tiers.parametrize("confidence", [0.0, 0.5])
@tiers.parametrize("bounds", [(0.0, 1.0), None])
def test_finds_the_distance_to_the_boundary_of_a_linear_model(bounds, confidence):
    x, y = linear_model.examples()
    attack = CarliniWagner(num_steps=600, confidence=confidence)
    found = attack.run(linear_model.logits, x, y, kr.L2(10.0, bounds))
    assert found.success.all()
    expected = [nearest(*row, bounds, confidence) for row in zip(x, y, strict=True)]
    np.testing.assert_allclose(-found.loss, expected, rtol=2e-2)
    length = np.linalg.norm((found.x_adv - x).reshape(len(x), -1), axis=-1)
    np.testing.assert_allclose(-found.loss, length, rtol=1e-5)
    assert linear_model.margin(found.x_adv, y).min() >= confidence - 1e-5


@pytest.mark.exhaustive
def test_starts_on_the_bounds_too():
    x = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]], "float32")

    def model(x):
        return keras.ops.stack([x[:, 0] - x[:, 1], x[:, 1] - x[:, 0] - 0.1], axis=-1)

    y = np.array([1, 0])
    found = CarliniWagner().run(model, x, y, FAR)
    # The margin is twice the difference, minus 0.1. From (0, 1) both coordinates must move by 0.475
    # to cross it, from (1, 1) one coordinate by 0.05.
    assert found.success.all()
    np.testing.assert_allclose(-found.loss[0], 0.475 * np.sqrt(2.0), rtol=0.02)
    np.testing.assert_allclose(-found.loss[1], 0.05, rtol=0.1)
    assert found.x_adv.min() >= 0.0 and found.x_adv.max() <= 1.0


@pytest.mark.exhaustive
def test_examples_that_no_weight_breaks_are_unchanged():
    def stubborn(x):
        # A black image would be a mistake, but lies outside of the box.
        return keras.ops.stack([x[:, 0] + x[:, 1], 0.0 * x[:, 0] + 0.3], axis=-1)

    x = np.array([[0.9, 0.8], [0.7, 0.6]], "float32")
    bounds = ([0.2, 0.2], [1.0, 1.0])
    found = CarliniWagner(num_steps=40).run(stubborn, x, np.array([0, 0]), kr.L2(9.0, bounds))
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any() and not found.zero_gradient.any()
    assert np.all(found.loss < -1e38)


@pytest.mark.exhaustive
def test_a_zero_gradient_is_reported():
    def has_zero_gradient(x):
        flat = keras.ops.stack([x[:, 0] + 1.0, x[:, 1]], axis=-1)
        return flat * keras.ops.cast([[1.0], [0.0]], "float32")

    x = np.array([[0.5, 0.5], [0.1, 0.9]], "float32")
    found = CarliniWagner(num_steps=10, search_steps=2).run(
        has_zero_gradient, x, np.array([0, 0]), FAR
    )
    np.testing.assert_array_equal(found.zero_gradient, [False, True])


@pytest.mark.exhaustive
def test_an_example_does_not_depend_on_the_rest_of_the_batch():
    x, y = numpy_reference.examples(4)
    model = numpy_reference.keras_model()
    attack = CarliniWagner(num_steps=60, search_steps=4, initial_weight=1.0)
    together = attack.run(model, x, y, FAR)
    for i in range(4):
        alone = attack.run(model, x[i : i + 1], y[i : i + 1], FAR)
        np.testing.assert_allclose(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-4)
        assert alone.queries[0] == together.queries[i]


@pytest.mark.parametrize("learning_rate", [0.0, -1.0, "0.1"])
def test_wrong_arguments(learning_rate):
    message = f"`learning_rate` must be a number > 0. Received: {learning_rate!r}"
    refusals.assert_argument_refused(CarliniWagner, message, learning_rate=learning_rate)
