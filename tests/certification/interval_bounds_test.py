import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_robust import backend
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.interval_bounds import worst_margins
from keras_robust.certification.interval_rules import propagate_box
from tests.support.bounded import IMAGE
from tests.support.bounded import network
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def test_centre_and_radius():
    box = IntervalBounds(np.array([[-1.0, 2.0]]), np.array([[3.0, 2.5]]))
    np.testing.assert_array_equal(box.centre, [[1.0, 2.25]])
    np.testing.assert_array_equal(box.radius, [[2.0, 0.25]])


@pytest.mark.parametrize("head", [(), (layers.Softmax(),)])
def test_elision_is_never_looser(head):
    model = network(layers.Dense(4, name="last"), *head)
    x = ops.convert_to_tensor(RNG.uniform(size=(6, *IMAGE)), "float64")
    labels = ops.convert_to_tensor([0, 1, 2, 3, 0, 1])
    box = propagate_box(model, IntervalBounds(x - 0.05, x + 0.05))
    z = box.logits or box
    elided = np.asarray(worst_margins(box, labels))
    plain = np.asarray(worst_margins(IntervalBounds(z.lower, z.upper), labels))
    others = np.eye(4)[np.asarray(labels)] == 0
    np.testing.assert_allclose(elided[~others], 0.0, atol=1e-12)
    np.testing.assert_array_equal(plain[~others], 0.0)
    assert np.all(elided[others] < plain[others])
    spread = np.asarray(z.upper) - np.asarray(z.lower)[np.arange(6), np.asarray(labels)][:, None]
    np.testing.assert_allclose(plain[others], spread[others])


def test_margins_at_a_point_are_those_of_the_logits():
    model = network(layers.Dense(4))
    x = RNG.uniform(size=(3, *IMAGE))
    labels = np.array([3, 0, 2])
    point = ops.convert_to_tensor(x, "float64")
    found = worst_margins(
        propagate_box(model, IntervalBounds(point, point)), ops.convert_to_tensor(labels)
    )
    z = np.asarray(model(x.astype("float32")))
    np.testing.assert_allclose(found, z - z[np.arange(3), labels][:, None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_output_stands_for_two_logits(activation):
    model = sequential(layers.Dense(1, activation=activation), shape=(3,))
    (w,), b = model.layers[0].get_weights()[0].T, model.layers[0].get_weights()[1][0]
    x = RNG.uniform(size=(2, 3))
    point = ops.convert_to_tensor(x, "float64")
    box = propagate_box(model, IntervalBounds(point - 0.1, point + 0.1))
    found = np.asarray(worst_margins(box, ops.convert_to_tensor([0, 1])))
    z, reach = x @ w + b, 0.1 * np.abs(w).sum()
    np.testing.assert_allclose(found, [[0.0, z[0] + reach], [-z[1] + reach, 0.0]], atol=1e-6)
    with pytest.raises(ValueError, match="must end in a Dense layer.*Received: outputs of shape"):
        worst_margins(IntervalBounds(box.lower, box.upper), ops.convert_to_tensor([0, 1]))
