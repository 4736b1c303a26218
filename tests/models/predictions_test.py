import keras
import numpy as np
import pytest

from keras_robust import models
from tests.support import linear_fit

X, _ = linear_fit.data(3)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_predict_logits(batch_size):
    found = models.predict_logits(linear_fit.make_model(), X, batch_size)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, X @ linear_fit.initial_weights(), rtol=1e-5)


def test_one_column_of_unknown_meaning_is_refused_for_clean_examples():
    def model(x):
        return x[:, :1]

    with pytest.raises(ValueError, match="logit or the probability of class 1"):
        models.predict_clean_logits(model, X)
    found = models.predict_logits(model, X)
    np.testing.assert_array_equal(found, np.stack([0.0 * X[:, 0], X[:, 0]], 1))


def test_clean_outputs_must_be_finite():
    x = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], "float32")
    np.testing.assert_allclose(models.predict_clean(lambda x: 2.0 * x, x, 2), 2.0 * x)
    with pytest.raises(ValueError, match="NaN or infinite.*Received: 2 such examples"):
        models.predict_clean(lambda x: keras.ops.where(x > 0.25, np.nan, x), x, 2)
    with pytest.raises(ValueError, match="NaN or infinite.*Received: 1 such examples"):
        models.predict_clean(lambda x: keras.ops.where(x > 0.55, np.inf, x), x, 2)
