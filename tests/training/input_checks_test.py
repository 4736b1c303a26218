import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.training import input_checks
from tests.support import forward_passes
from tests.support import requirements

X = forward_passes.X
BALL = kr.threat_models.Linf(0.1)


def _with(value):
    x = X.copy()
    x[1, 2] = value
    return keras.ops.convert_to_tensor(x)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.0009, 1.0009])
def test_inputs_may_round_off_the_bounds(value):
    assert requirements.message(input_checks.check_inputs, _with(value), BALL) is None


@pytest.mark.parametrize("value", [-0.002, 1.5])
def test_inputs_outside_of_the_bounds(value):
    x = _with(value)
    message = requirements.message(input_checks.check_inputs, x, BALL)
    assert message.startswith("Inputs must lie in the bounds of the threat model. Rescale them")
    range_text = message.split("Received: a batch with values from ")[1].split(" under bounds=")
    assert range_text[1] == "(0.0, 1.0)"
    found = [float(number) for number in range_text[0].split(" to ")]
    np.testing.assert_allclose(found, [np.min(x), np.max(x)], rtol=1e-5)


def test_inputs_without_bounds_need_only_be_finite():
    free = kr.threat_models.Linf(0.1, None)
    assert requirements.message(input_checks.check_inputs, _with(-50.0), free) is None
    message = requirements.message(input_checks.check_inputs, _with(np.nan), free)
    assert message.startswith("Inputs must be finite. Clean the data, or drop the broken examples.")


def test_broken_values_are_counted_and_not_called_out_of_bounds():
    x = X.copy()
    x[0, 0], x[2, 3], x[3, 5] = np.nan, np.inf, -np.inf
    x = keras.ops.convert_to_tensor(x)
    message = requirements.message(input_checks.check_inputs, x, BALL)
    assert message.endswith("Received: a batch with 3 NaN or infinite values")
    assert requirements.values(input_checks.check_inputs, x, BALL) == [3.0]


@pytest.mark.parametrize("epsilon,share", [(0.25, 0.5), (0.75, 1.5)])
def test_the_share_of_the_range(epsilon, share):
    x = keras.ops.convert_to_tensor(np.array([[0.25, 0.5], [0.75, 0.5]], "float32"))
    assert float(input_checks.share_of_range(x, kr.threat_models.Linf(epsilon))) == share
    assert float(input_checks.share_of_range(0.0 * x, kr.threat_models.Linf(epsilon))) == 0.0


def test_the_attacked_inputs_and_the_shapes_of_their_examples():
    x = {"a": np.zeros((2, 3)), "b": np.zeros((2, 4, 5))}
    ball = kr.threat_models.get({"b": BALL})
    ((attacked, shape),) = input_checks.attacked_inputs(x, ball)
    assert attacked.epsilon == 0.1 and shape == (4, 5)


def test_a_batch_of_any_size_fits_a_model_without_a_state():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    assert input_checks.check_size(model, X) == []
