import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend
from keras_robust.certification.interval_activations import activate
from keras_robust.certification.interval_activations import softmax_bounds
from keras_robust.certification.interval_bounds import IntervalBounds

LAYER = keras.layers.Activation("relu", name="last")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def box_of(low, high):
    return IntervalBounds(*(ops.convert_to_tensor(end, "float64") for end in (low, high)))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "elu", "softplus", "hard_tanh", "celu"])
def test_increasing_functions_map_the_ends(name):
    function = getattr(keras.activations, name)
    box = box_of([[-2.0, 0.5]], [[-1.0, 3.0]])
    found = activate(LAYER, function, box)
    np.testing.assert_array_equal(found.lower, function(box.lower))
    np.testing.assert_array_equal(found.upper, function(box.upper))
    assert (found.logits is box) == (name == "sigmoid")


def test_linear_returns_the_box():
    box = box_of([[-2.0]], [[1.0]])
    assert activate(LAYER, keras.activations.linear, box) is box


def test_tanh_is_computed_in_double_precision():
    found = activate(LAYER, keras.activations.tanh, box_of([[-0.3]], [[1.7]]))
    np.testing.assert_allclose(found.lower, np.tanh([[-0.3]]), rtol=1e-12)
    np.testing.assert_allclose(found.upper, np.tanh([[1.7]]), rtol=1e-12)


def test_softmax_bounds_contain_every_point_and_are_attained():
    low, high = np.array([-1.0, 0.0, 0.5]), np.array([0.0, 0.2, 2.0])
    found = softmax_bounds(box_of(low[None], high[None]))
    points = low + RNG.uniform(size=(1000, 3)) * (high - low)
    exponentials = np.exp(points)
    outputs = exponentials / exponentials.sum(axis=-1, keepdims=True)
    assert np.all(outputs >= np.asarray(found.lower)) and np.all(outputs <= np.asarray(found.upper))
    corner = np.exp([low[0], high[1], high[2]])
    np.testing.assert_allclose(np.asarray(found.lower)[0, 0], corner[0] / corner.sum(), rtol=1e-6)


def test_other_functions_are_refused_even_under_a_known_name():
    def relu(x):
        return -x

    for function in (relu, keras.activations.gelu):
        with pytest.raises(ValueError, match="No interval bound.*in layer 'last'"):
            activate(LAYER, function, box_of([[0.0]], [[1.0]]))
