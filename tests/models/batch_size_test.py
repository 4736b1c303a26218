import keras
import pytest

from keras_robust import models
from keras_robust.models.batch_size import fixed_batch_size


def _model(size, stateful=False):
    inputs = keras.Input((4, 2), batch_size=size)
    return keras.Sequential([inputs, keras.layers.GRU(2, stateful=stateful)])


def test_a_model_of_one_size_refuses_others():
    model = _model(5, stateful=True)
    assert fixed_batch_size(model) == 5
    for size in (5, None):
        models.check_batch_size(model, size)
    for size in (3, 8):
        with pytest.raises(ValueError, match=f"only batches of 5 examples.*a batch of {size} ex"):
            models.check_batch_size(model, size)


@pytest.mark.parametrize("model", [_model(None), _model(5), lambda x: x, keras.layers.Dense(2)])
def test_models_without_a_state_take_any_size(model):
    assert fixed_batch_size(model) is None
    models.check_batch_size(model, 3)
