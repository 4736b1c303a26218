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

EAD = kr.attacks.EAD
FAR = kr.L1(20.0)
QUICK = {"num_steps": 14, "search_steps": 5, "initial_weight": 0.1}


def fista(learning_rate, num_steps, beta, rule, bounds):
    """Returns the descent in NumPy."""

    def descent(x, weight, hinge):
        low, high = (-np.inf, np.inf) if bounds is None else bounds
        point = ahead = x
        for step in range(num_steps):
            _, _, gradient = hinge(ahead)
            rate = learning_rate * np.sqrt(1.0 - step / num_steps)
            moved = ahead - rate * (weight * gradient + 2.0 * (ahead - x))
            shrunk = np.where(
                moved - x > beta,
                np.minimum(moved - beta, high),
                np.where(moved - x < -beta, np.maximum(moved + beta, low), x),
            )
            ahead = shrunk + step / (step + 3.0) * (shrunk - point)
            point = shrunk
            value, hit, _ = hinge(point)
            absolute = np.abs(point - x).sum()
            elastic = np.sum((point - x) ** 2) + beta * absolute
            size = elastic if rule == "EN" else absolute
            yield point, elastic + weight * value, size, hit

    return descent


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize(
    ("arguments", "bounds"),
    [
        ({}, (0.0, 1.0)),
        ({"beta": 0.05}, None),
        ({"decision_rule": "L1", "beta": 0.003}, (0.0, 1.0)),
        ({"confidence": 0.7}, (np.linspace(-1.0, 0.0, 6), np.linspace(1.0, 1.5, 6))),
        ({"targeted": "least_likely", "num_steps": 25}, (0.0, 1.0)),
        ({"targeted": True, "learning_rate": 0.2, "search_steps": 4}, (0.0, 1.0)),
        ({"search_steps": 1, "initial_weight": 3.0}, (-1.0, 2.0)),
    ],
)
def test_is_the_search_of_the_authors(arguments, bounds):
    x, y = numpy_reference.examples(8)
    if arguments.get("targeted") is True:
        y = (y + 1) % 3
    settings = {"learning_rate": 0.1, **QUICK, **arguments}
    found = EAD(**settings).run(numpy_reference.keras_model(), x, y, kr.L1(20.0, bounds))
    beta, rule = settings.pop("beta", 0.01), settings.pop("decision_rule", "EN")
    descent = fista(settings.pop("learning_rate"), settings["num_steps"], beta, rule, bounds)
    points, success, steps = penalty_reference.search_all(x, y, descent, **settings)
    np.testing.assert_array_equal(found.success, success)
    np.testing.assert_allclose(found.x_adv, points, rtol=0, atol=1e-4)
    # The gradients, the judged points, and the queries of the base classes.
    np.testing.assert_array_equal(found.queries, 3 * np.array(steps) + 8)
    assert len(set(steps)) > 1 and any(success)


def nearest(x, y, norm, bounds):
    """Returns the distance from an example to the boundary of the linear model."""

    def gap(radius):
        return linear_model.margin(linear_model.best(x[None], [y], norm, radius, bounds), [y])[0]

    return optimize.brentq(gap, 1e-4, 20.0)


@pytest.mark.exhaustive
@tiers.parametrize("bounds", [(0.0, 1.0), None])
def test_without_the_absolute_term_finds_the_euclidean_distance(bounds):
    x, y = linear_model.examples()
    found = EAD(beta=0.0).run(linear_model.logits, x, y, kr.L2(20.0, bounds))
    expected = [nearest(*row, "L2", bounds) for row in zip(x, y, strict=True)]
    assert found.success.all()
    np.testing.assert_allclose(-found.loss, expected, rtol=0.02)


@pytest.mark.exhaustive
def test_comes_close_to_the_distance_in_l1_with_few_changes():
    x, y = linear_model.examples()
    sparse, dense = (
        EAD(decision_rule="L1", beta=beta, num_steps=300).run(linear_model.logits, x, y, FAR)
        for beta in (0.05, 0.0)
    )
    expected = np.array([nearest(*row, "L1", (0.0, 1.0)) for row in zip(x, y, strict=True)])
    assert sparse.success.all()
    assert np.all(-sparse.loss >= expected * (1.0 - 1e-5))
    assert np.all(-sparse.loss <= expected * 1.35)
    assert np.all(sparse.loss > dense.loss)
    changes = [np.sum(np.abs(found.x_adv - x) > 1e-6, axis=(1, 2, 3)) for found in (sparse, dense)]
    assert np.all(changes[0] < changes[1])


@pytest.mark.exhaustive
def test_the_decision_rule_compares_by_its_own_size():
    x, y = numpy_reference.examples(12)
    model = numpy_reference.keras_model()
    elastic, absolute = (
        EAD(num_steps=60, learning_rate=0.05, decision_rule=rule).run(model, x, y, FAR)
        for rule in ("EN", "L1")
    )
    squares = [np.sum((found.x_adv - x) ** 2, axis=-1) for found in (elastic, absolute)]
    sums = [np.sum(np.abs(found.x_adv - x), axis=-1) for found in (elastic, absolute)]
    both = [0.01 * total + square for total, square in zip(sums, squares, strict=True)]
    assert elastic.success.all() and absolute.success.all()
    assert np.all(sums[1] <= sums[0] + 1e-6) and np.any(sums[1] < sums[0] - 1e-3)
    assert np.all(both[0] <= both[1] + 1e-6) and np.any(both[0] < both[1] - 1e-5)


@pytest.mark.exhaustive
def test_examples_that_no_weight_breaks_are_unchanged():
    def stubborn(x):
        # A black image would be a mistake, but lies outside of the box.
        return keras.ops.stack([x[:, 0] + x[:, 1], 0.0 * x[:, 0] + 0.3], axis=-1)

    x = np.array([[0.9, 0.8], [0.7, 0.6]], "float32")
    bounds = ([0.2, 0.2], [1.0, 1.0])
    found = EAD(num_steps=40).run(stubborn, x, np.array([0, 0]), kr.L1(9.0, bounds))
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any() and not found.zero_gradient.any()


@pytest.mark.exhaustive
def test_an_example_does_not_depend_on_the_rest_of_the_batch():
    x, y = numpy_reference.examples(4)
    model = numpy_reference.keras_model()
    attack = EAD(num_steps=60, search_steps=4, initial_weight=1.0)
    together = attack.run(model, x, y, FAR)
    for i in range(4):
        alone = attack.run(model, x[i : i + 1], y[i : i + 1], FAR)
        np.testing.assert_allclose(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-4)
        assert alone.queries[0] == together.queries[i]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -0.1}, "`beta` must be a number >= 0. Received: -0.1"),
        ({"decision_rule": "L2"}, "`decision_rule` must be one of .*Received: 'L2'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(EAD, message, **arguments)
