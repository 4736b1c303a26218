import keras
import numpy as np
import pytest

from keras_robust.models.random_state import is_seed
from keras_robust.models.random_state import own_noise
from keras_robust.models.random_state import with_own_noise


def _model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, seed=3)])


def _draw(model):
    return np.array(keras.random.normal((8,), seed=model.layers[0].seed_generator))


def test_a_search_draws_other_numbers_and_leaves_those_to_come():
    model, same = _model(), _model()
    with own_noise(model):
        found = [_draw(model) for _ in range(3)]
        with own_noise(model):
            found.append(_draw(model))
    later = [_draw(model) for _ in range(2)]
    np.testing.assert_array_equal(later, [_draw(same) for _ in range(2)])
    assert len(np.unique([*found, *later])) == 6 * 8


def test_an_error_puts_them_back_too():
    model, same = _model(), _model()
    with pytest.raises(RuntimeError), own_noise(model):
        _draw(model)
        raise RuntimeError
    np.testing.assert_array_equal(_draw(model), _draw(same))


@pytest.mark.parametrize("by_name", [True, False])
def test_a_function_of_a_model(by_name):
    @with_own_noise
    def draw(number, model):
        return [_draw(model) for _ in range(number)]

    model, same = _model(), _model()
    found = draw(2, model=model) if by_name else draw(2, model)
    np.testing.assert_array_equal(_draw(model), _draw(same))
    assert len(np.unique(found)) == 16


def test_of_a_function_nothing_is_known():
    with own_noise(lambda x: x):
        pass


def test_knows_seeds_by_the_name_that_keras_gives_them():
    assert list(map(is_seed, _model().variables)) == [True]
    assert not is_seed(keras.Variable(1.0))
