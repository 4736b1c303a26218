import itertools

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import numpy_reference
from tests.support import refusals

GridSearch = kr.attacks.GridSearch
WEIGHTS = np.random.default_rng(1).normal(size=(3, 3)).astype("float32")


def model(x):
    return keras.ops.matmul(keras.ops.sin(4.0 * x), WEIGHTS)


def examples(count=8):
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(count, 3)).astype("float32")
    return x, np.argmax(np.sin(4.0 * x) @ WEIGHTS, axis=-1)


def enumerated(x, y, radius, values, loss):
    """Returns the worst point of every example in float64: a mistake, then the highest loss."""
    shares = [np.linspace(-1.0, 1.0, one) if one > 1 else [0.0] for one in values]
    grid = np.array(list(itertools.product(*shares)))
    points = np.clip(x + radius * grid[:, None], 0.0, 1.0)
    logits = np.sin(4.0 * points) @ WEIGHTS.astype("float64")
    losses = np.stack([np.asarray(loss(y, one.astype("float32"))) for one in logits])
    rank = losses + 1e3 * (np.argmax(logits, axis=-1) != y)
    best = np.argmax(rank, axis=0)
    return points[best, np.arange(len(x))], losses.max(axis=0)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("values", [(3, 4, 5), (5, 1, 2)])
def test_the_result_is_the_worst_of_all_enumerated_points(loss, values):
    x, y = examples()
    radius = np.array([0.1, 0.2, 0.3])
    found = GridSearch(values, loss=loss).run(model, x, y, kr.Linf(radius))
    expected, _ = enumerated(x, y, radius, values, kr.losses.FUNCTIONS[loss])
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=1e-5)
    assert 0 < found.success.sum() < len(x)
    np.testing.assert_array_equal(found.queries, np.full(len(x), np.prod(values) + 2))


def test_an_int_is_for_all_features_and_the_batch_size_does_not_matter():
    x, y = examples()
    found = GridSearch(3).run(model, x, y, kr.Linf(0.2), batch_size=3)
    again = GridSearch([3, 3, 3]).run(model, x, y, kr.Linf(0.2), seed=5)
    np.testing.assert_array_equal(found.x_adv, again.x_adv)
    assert np.abs(found.x_adv - x).max() > 0.1


def test_targets_and_clean_mistakes():
    x, y = examples()
    wrong = (y + 1) % 3
    np.testing.assert_array_equal(GridSearch(3)(model, x, wrong, kr.Linf(0.2)), x)
    found = GridSearch(5, targeted=True).run(model, x, wrong, kr.Linf(0.3))
    logits = np.sin(4.0 * found.x_adv) @ WEIGHTS
    np.testing.assert_array_equal(found.success, np.argmax(logits, axis=-1) == wrong)
    assert found.success.any()


def test_a_radius_of_zero_returns_the_input():
    x, y = numpy_reference.examples(12)
    found = GridSearch(2)(numpy_reference.keras_model(), x, y, kr.Linf(0.0))
    np.testing.assert_array_equal(found, x)


def test_grids_know_their_size():
    assert GridSearch().num_queries == 775 and GridSearch(3).num_queries is None


@pytest.mark.parametrize(
    ("num_values", "ball", "message"),
    [
        (
            [3, 3],
            kr.Linf(0.1),
            r"one number of values for each.*num_values=\[3, 3\] for 3 features",
        ),
        (101, kr.Linf(0.1), "at most 1000000 points.*Received: num_values=101 for 3 features"),
        (3, kr.L2(0.1), r"ranges of single features.*Received: L2\(epsilon="),
    ],
)
def test_problems_without_a_grid_are_explained(num_values, ball, message):
    with pytest.raises(ValueError, match=message):
        GridSearch(num_values)(model, *examples(), ball)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_values": 0}, r"num_values\[0\]` must be an int >= 1. Received: 0"),
        ({"num_values": (3, 1.5)}, r"num_values\[1\]` must be an int >= 1. Received: 1.5"),
        ({"loss": "compiled"}, "must be one of.*Received: 'compiled'"),
        ({"targeted": 1}, "must be one of.*Received: 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with refusals.assert_refused(message):
        GridSearch(**arguments)
