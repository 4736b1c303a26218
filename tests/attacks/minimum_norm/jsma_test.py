import itertools

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

JSMA = kr.attacks.JSMA
FEATURES, CLASSES = 9, 4
_RNG = np.random.default_rng(31)
KERNEL = _RNG.normal(size=(FEATURES, CLASSES)).astype("float32")


def linear(x):
    return keras.ops.matmul(keras.ops.reshape(x, (-1, FEATURES)) - 0.5, KERNEL)


def logits(x):
    return (x.reshape(-1, FEATURES).astype("float64") - 0.5) @ KERNEL


def examples(count=12):
    x = np.random.default_rng(7).uniform(size=(count, FEATURES)).astype("float32")
    x[0, :3] = 1.0  # These features cannot grow.
    return x, np.argmax(logits(x), axis=-1)


def unbounded(**arguments):
    return kr.L0(1, **arguments).with_epsilon(np.float32(np.inf))


def reference(x, label, target, theta, budget, channels=1):
    """Returns the point of the greedy search on the linear model, and whether it is a mistake."""
    sign = np.sign(theta)
    slopes = KERNEL.astype("float64").reshape(-1, channels, CLASSES).sum(axis=1)
    to_target = sign * slopes[:, target]
    to_others = sign * (slopes.sum(axis=-1) - slopes[:, target])
    moved = np.clip(x + np.float32(theta), 0.0, 1.0)
    movable = np.any((moved != x).reshape(-1, channels), axis=-1)
    used = set()
    while True:
        mask = np.repeat(np.isin(np.arange(len(slopes)), list(used)), channels)
        point = np.where(mask, moved, x)
        if np.argmax(logits(point)) != label:
            return point, True
        unused = [i for i in range(len(slopes)) if movable[i] and i not in used]
        pair = reference_pair(to_target, to_others, unused, budget - len(used))
        if pair is None:
            return x, False
        used |= set(pair)


def reference_pair(to_target, to_others, unused, left):
    """Returns the pair with the largest saliency, the best single feature if `left` is 1."""
    pairs = itertools.combinations(unused, 2) if left >= 2 else zip(unused, unused, strict=True)
    scores = {}
    for p, q in pairs if left > 0 else ():
        one, other = to_target[p] + to_target[q], to_others[p] + to_others[q]
        if one > 0 and other < 0:
            scores[p, q] = -one * other
    return max(scores, key=scores.get) if scores else None


def runner_up(x, rank=0):
    return np.argsort(-logits(x), axis=-1)[:, 1 + rank]


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize("budget", [2, 3, 6, 9])
@tiers.parametrize("theta", [1.0, -0.6])
def test_changes_the_pairs_of_the_greedy_rule(theta, budget):
    x, y = examples()
    found = JSMA(theta=theta).run(linear, x, y, kr.L0(budget))
    rows = zip(x, y, runner_up(x), strict=True)
    expected = [reference(*row, theta, budget) for row in rows]
    np.testing.assert_array_equal(found.success, [success for _, success in expected])
    np.testing.assert_allclose(found.x_adv, np.stack([p for p, _ in expected]), atol=1e-6)
    changed = np.sum(found.x_adv != x, axis=-1)
    np.testing.assert_array_equal(-found.loss[found.success], changed[found.success])
    assert 0 < found.success.sum() and (budget == 9 or not found.success.all())


@pytest.mark.exhaustive
@pytest.mark.usefixtures("search_alone")
def test_pixels_change_in_all_channels():
    x, y = examples()
    images = x.reshape(-1, 1, 3, 3)
    found = JSMA().run(linear, images, y, kr.L0(2, per_pixel=True))
    expected = [reference(*row, 1.0, 2, 3) for row in zip(x, y, runner_up(x), strict=True)]
    np.testing.assert_array_equal(found.success, [success for _, success in expected])
    points = np.stack([point for point, _ in expected]).reshape(images.shape)
    np.testing.assert_allclose(found.x_adv, points, atol=1e-6)
    assert 0 < found.success.sum() < len(x)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("search_alone")
def test_later_targets_attack_only_unbroken_examples():
    x, y = examples(30)
    one = JSMA(num_targets=1).run(linear, x, y, kr.L0(2))
    two = JSMA(num_targets=2).run(linear, x, y, kr.L0(2))
    second = [reference(*row, 1.0, 2) for row in zip(x, y, runner_up(x, 1), strict=True)]
    helped = ~one.success & [success for _, success in second]
    assert helped.any()
    np.testing.assert_array_equal(two.success, one.success | helped)
    np.testing.assert_array_equal(two.x_adv[one.success], one.x_adv[one.success])
    for i in np.flatnonzero(helped):
        np.testing.assert_allclose(two.x_adv[i], second[i][0], atol=1e-6)


@pytest.mark.exhaustive
def test_gamma_is_the_largest_share_of_the_features():
    x, y = examples(30)
    found = JSMA(gamma=0.5).run(linear, x, y, unbounded())
    same = JSMA().run(linear, x, y, kr.L0(4))
    np.testing.assert_array_equal(found.x_adv, same.x_adv)
    assert same.success.sum() < JSMA().run(linear, x, y, unbounded()).success.sum()


@pytest.mark.exhaustive
def test_targeted_ends_at_the_target():
    x, y = examples(30)
    target = np.argsort(-logits(x), axis=-1)[:, 2]
    found = JSMA(targeted=True).run(linear, x, target, unbounded())
    reached = np.argmax(logits(found.x_adv), axis=-1) == target
    assert found.success.sum() >= 10
    np.testing.assert_array_equal(found.success, reached)


@pytest.mark.exhaustive
def test_follows_the_slopes_of_a_network_step_by_step():
    # The second pair is chosen at the point of the first one, so that two pairs reach at least the
    # loss of one.
    x, y = numpy_reference.examples(12)
    model = numpy_reference.keras_model()
    attack = JSMA(theta=-1.0)
    two, four = (attack.run(model, x, y, kr.L0(count)) for count in (2, 4))
    assert np.all(four.success[two.success]) and four.success.sum() > two.success.sum()
    np.testing.assert_array_equal(four.x_adv[two.success], two.x_adv[two.success])
    wrong = np.argmax(numpy_reference.logits(four.x_adv.astype("float64")), axis=-1) != y
    np.testing.assert_array_equal(four.success, wrong)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("search_alone")
def test_queries_end_with_the_search():
    x, y = examples()
    found = JSMA().run(linear, x, y, unbounded())
    pairs = -found.loss[found.success] / 2
    # Two passes with gradients at each point, one query for the target, and three of the base
    # class.
    np.testing.assert_array_equal(found.queries[found.success], 4 * (pairs + 1) + 1 + 3)


@pytest.mark.exhaustive
def test_a_constant_model_reports_zero_gradients_and_no_success():
    def constant(x):
        return keras.ops.stack([0.0 * x[:, 0] + 1.0, 0.0 * x[:, 1]], axis=-1)

    x = np.array([[0.5, 0.5], [0.1, 0.9]], "float32")
    found = JSMA().run(constant, x, np.array([0, 0]), kr.L0(2))
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any() and found.zero_gradient.all()


@pytest.mark.exhaustive
def test_an_example_does_not_depend_on_the_rest_of_the_batch():
    x, y = examples(5)
    attack = JSMA()
    together = attack.run(linear, x, y, kr.L0(6))
    for i in range(5):
        alone = attack.run(linear, x[i : i + 1], y[i : i + 1], kr.L0(6))
        np.testing.assert_array_equal(alone.x_adv[0], together.x_adv[i])
        assert alone.queries[0] == together.queries[i]


def test_another_norm_is_refused():
    x, y = examples(2)
    with pytest.raises(ValueError, match=r"needs the threat model L0, .*Received: L2\("):
        JSMA().run(linear, x, y, kr.L2(1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"theta": 0.0}, "`theta` must be from -1 to 1, and not 0. Received: 0.0"),
        ({"theta": 2.0}, "`theta` must be from -1 to 1, and not 0. Received: 2.0"),
        ({"gamma": 0.0}, r"`gamma` must be a number in \(0, 1\]. Received: 0.0"),
        ({"num_targets": 0}, "`num_targets` must be an int >= 1. Received: 0"),
        ({"targeted": "least_likely"}, "`targeted` must be a bool.*targeted='least_likely'"),
        ({"targeted": True, "num_targets": 2}, "False for several.*targeted=True, num_targets=2"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(JSMA, message, **arguments)
