import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.backend.tensorflow.ops import derivative_error_context
from tests.support import tiers


@tiers.parametrize("interpolation", ["bicubic", "nearest", "lanczos3"])
@tiers.parametrize("objective", ["jacobian", "input_gradient", "grad_align"])
def test_an_operation_without_a_second_derivative_is_named(interpolation, objective):
    x, y = np.full((4, 4, 4, 1), 0.5, "float32"), np.array([0, 1, 0, 1])
    resizing = keras.layers.Resizing(6, 6, interpolation=interpolation)
    layers = [keras.Input((4, 4, 1)), resizing, keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    training = kr.AdvTrain(kr.Linf(0.1), attack="fgsm", objective=objective, warmup=0)
    with pytest.raises(ValueError, match="no second derivative.*Received: the operation .*Grad"):
        model.fit(x, y, verbose=0, callbacks=[training])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("gradient registry has no entry for: RootGrad", "second derivative.*: the operation Root"),
        ("No gradient defined for operation 'a/b' (op type: Bitcast)", "no derivative.*n Bitcast$"),
    ],
)
def test_messages_of_tensorflow(message, expected):
    with pytest.raises(ValueError, match=expected), derivative_error_context():
        raise LookupError(message)
