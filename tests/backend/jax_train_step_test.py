import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_fit

X, Y = linear_fit.data(16)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_bad_batch_leaves_the_weights_before_it(run_eagerly):
    bad = X.copy()
    bad[12, 1] = 1.5
    model, after_one = (linear_fit.make_model(run_eagerly=run_eagerly) for _ in range(2))
    linear_fit.fit(after_one, linear_fit.adv_train(), X[:8], Y[:8])
    with pytest.raises(ValueError, match="must lie in the bounds.*to 1.5 under"):
        linear_fit.fit(model, linear_fit.adv_train(), bad, Y)
    np.testing.assert_array_equal(linear_fit.weights(model), linear_fit.weights(after_one))
    assert int(model.optimizer.iterations.value) == 1


def test_labels_and_weights_that_are_no_numbers_are_refused():
    weight = np.ones(16, "float32")
    weight[3] = np.nan
    with pytest.raises(ValueError, match="Sample weights must be finite.*with 1 NaN"):
        linear_fit.fit(linear_fit.make_model(), linear_fit.adv_train(), X, Y, sample_weight=weight)
    labels = Y.astype("float32")
    labels[2] = 0.5
    with pytest.raises(ValueError, match="must be whole numbers.*with 1 others"):
        linear_fit.fit(linear_fit.make_model(), linear_fit.adv_train(), X, labels)


def test_a_model_without_trainable_weights_is_refused():
    model = linear_fit.make_model()
    model.trainable = False
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="no trainable weights"):
        model.fit(X, Y, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1))])
