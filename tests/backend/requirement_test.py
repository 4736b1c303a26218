import numpy as np
import pytest
from keras import ops

from keras_robust import backend
from keras_robust.backend import Requirement


def test_the_message_of_a_failed_condition_shows_its_values():
    x = ops.convert_to_tensor(np.array([1.0, 7.0], "float32"))
    low = Requirement(ops.all(x >= 0.0), "Expected no less than 0. Received: {}", (ops.min(x),))
    high = Requirement(ops.all(x <= 5.0), "Expected at most 5. Received: {}", (ops.max(x),))
    assert bool(low.condition) and not bool(high.condition)
    assert [float(*one.values) for one in (low, high)] == [1.0, 7.0]
    assert high.template.format(*map(float, high.values)) == "Expected at most 5. Received: 7.0"
    with pytest.raises(Exception, match="Expected at most 5"):
        backend.require_all(high.condition, high.template.replace("{}", "7"), x)
