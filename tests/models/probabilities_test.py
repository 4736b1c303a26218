import keras
import numpy as np

from keras_robust.models import probabilities

ROWS = np.array([[0.2, 0.8], [0.2, 0.803], [0.2, 0.81], [-0.1, 1.1]], "float32")


def test_rows_of_probabilities():
    np.testing.assert_array_equal(
        probabilities.rows_of_probabilities(ROWS), [True, True, False, False]
    )
    assert bool(probabilities.are_probabilities(ROWS[:2]))
    assert not bool(probabilities.are_probabilities(ROWS))


def test_the_inverse_of_softmax_and_sigmoid():
    rows = keras.ops.convert_to_tensor(ROWS[:1])
    np.testing.assert_allclose(
        probabilities.inverse_activation(rows), np.log([[0.2, 0.8]]), rtol=1e-6
    )
    column = keras.ops.convert_to_tensor(ROWS[:1, 1:])
    np.testing.assert_allclose(
        probabilities.inverse_activation(column), [[np.log(0.8 / 0.2)]], rtol=1e-6
    )
    assert np.all(np.isfinite(probabilities.inverse_activation(np.array([[0.0, 1.0]]))))
