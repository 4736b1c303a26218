import dataclasses

import keras
import numpy as np
import pytest

from keras_robust.export.inputs import Inputs
from keras_robust.export.served_model import ServedModel
from keras_robust.layers import InputGuard
from tests.export.inputs_test import two_inputs

X = np.array([[0.5, -1.0, 3.0], [0.0, 0.25, 1.0]], "float32")
CLIP = InputGuard((0, 1), outside="clip")


def served(*layers, guard=None):
    model = keras.Sequential([keras.Input((3,), name="x"), *layers, keras.layers.Rescaling(2.0)])
    return ServedModel(model, Inputs(model), [guard])


def test_every_input_goes_through_its_guard():
    model = two_inputs()
    one = ServedModel(model, Inputs(model), [CLIP, None])
    tensors = [keras.ops.convert_to_tensor(x) for x in (X, X[:, :2])]
    a, z = one.apply_guards(tensors)
    np.testing.assert_array_equal(a, np.clip(X, 0.0, 1.0))
    np.testing.assert_array_equal(z, X[:, :2])
    logits, probabilities = one.prediction_function()(tensors)
    expected = model({"a": np.clip(X, 0.0, 1.0), "z in": X[:, :2]})
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    np.testing.assert_allclose(probabilities, keras.ops.softmax(expected), rtol=1e-6)


def test_the_guard_that_states_the_scale():
    first, front = InputGuard((0, 2)), InputGuard((0, 3))
    assert served(first, guard=front).scale_guard is front
    assert served(first).scale_guard is first
    assert served(keras.layers.Rescaling(0.5), first).scale_guard is None
    assert served().scale_guard is None
    tensor = keras.Input((3,), name="x")
    outputs = keras.layers.Rescaling(2.0)(InputGuard((0, 4))(tensor))
    functional = keras.Model(tensor, outputs)
    assert ServedModel(functional, Inputs(functional), [None]).scale_guard.bounds == (0.0, 4.0)


def test_bounds_are_those_of_the_guards():
    assert served(guard=InputGuard((0, 3))).bounds == [(0.0, 3.0)]
    assert served(InputGuard((0, 2))).bounds == [(0.0, 2.0)]
    assert served().bounds == served(guard=InputGuard(None)).bounds == [None]
    model = two_inputs()
    one = ServedModel(model, Inputs(model), [None, InputGuard((0, 5))])
    assert one.bounds == [None, (0.0, 5.0)]


def test_the_first_rows():
    one = served(guard=InputGuard((5, 6)))
    (rows,) = one.first_rows((np.repeat(X, 5, axis=0), None))
    np.testing.assert_array_equal(rows, np.repeat(X, 5, axis=0)[:8])
    (rows,) = one.first_rows((X, None), count=1)
    np.testing.assert_array_equal(rows, X[:1])
    (rows,) = one.first_rows(None)
    assert rows.shape == (8, 3) and 5.0 <= rows.min() < rows.max() <= 6.0


def test_it_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError, match="guards"):
        served().guards = [CLIP]
