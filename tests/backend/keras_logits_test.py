import gc

import keras
import numpy as np
import pytest

from keras_robust.backend import keras_logits
from keras_robust.backend import set_keras_logits
from keras_robust.backend.keras_logits import _KEPT


class Slotted:
    """Takes no attributes, as the tensors that JAX traces."""

    __slots__ = ("__weakref__",)


def test_finds_what_went_into_a_softmax():
    logits = keras.ops.convert_to_tensor(np.array([[1.0, 2.0]], "float32"))
    np.testing.assert_array_equal(keras_logits(keras.activations.softmax(logits)), logits)
    assert keras_logits(logits) is None


@pytest.mark.exhaustive
def test_keeps_logits_of_what_takes_no_attributes_as_long_as_it_lives():
    one, other = Slotted(), Slotted()
    set_keras_logits(one, "first")
    set_keras_logits(one, "second")
    assert keras_logits(one) == "second" and keras_logits(other) is None
    key = id(one)
    del one
    gc.collect()
    assert key not in _KEPT
