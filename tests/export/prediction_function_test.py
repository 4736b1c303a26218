import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.export.prediction_function import PredictionFunction
from keras_robust.export.prediction_function import is_random
from keras_robust.export.prediction_function import smoothings
from tests.support import tiers

X = np.random.default_rng(0).uniform(size=(4, 3)).astype("float32")


def network(activation=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation=activation)])


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_logits_and_their_softmax(activation):
    logits, probabilities = PredictionFunction(network(activation))(X)
    np.testing.assert_allclose(logits, network()(X), rtol=1e-5)
    np.testing.assert_allclose(probabilities, tf.nn.softmax(network()(X)), rtol=1e-5)


@tiers.parametrize("nested", [False, True])
def test_votes_are_probabilities(nested):
    model = kr.layers.RandomizedSmoothing(network(), 1.0, num_samples=10, seed=3)
    if nested:
        tensor = keras.Input((3,))
        model = keras.Model(tensor, model(tensor))
    logits, probabilities = PredictionFunction(model)(X)
    votes = np.asarray(probabilities)
    np.testing.assert_allclose(votes, model(X))
    np.testing.assert_allclose(logits, np.log(np.maximum(votes, 0.05)), rtol=1e-5)
    assert len(smoothings(model)) == 1 and not is_random(model)


def test_noise_is_that_of_the_system_and_the_state_stays():
    model = kr.layers.RandomizedSmoothing(network(), 1.0, num_samples=10)
    before = np.array(model.seed_generator.state)
    x = np.repeat(X, 50, axis=0)
    keras.utils.set_random_seed(0)
    first = PredictionFunction(model)(x)[1]
    keras.utils.set_random_seed(0)
    assert np.any(first != PredictionFunction(model)(x)[1])
    np.testing.assert_array_equal(model.seed_generator.state, before)
    assert is_random(model) and not is_random(network())
