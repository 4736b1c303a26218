import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust.objectives import noisy_copies
from tests.support import forward_passes
from tests.support import refusals

IMAGES = np.random.default_rng(1).uniform(size=(3, 2, 2, 1)).astype("float32")


def test_noise_has_its_standard_deviation_and_another_seed_than_a_random_start():
    batch = forward_passes.batch(np.zeros((250, 20), "float32"))
    noise = np.asarray(noisy_copies.draw_noise(batch, 0.5, 2))
    assert noise.shape == (500, 20)
    # 10,000 numbers: the standard error of the deviation is stddev / sqrt(20,000), 0.7%.
    assert np.std(noise) == pytest.approx(0.5, rel=0.03)
    assert abs(np.mean(noise)) < 0.02
    start = np.asarray(backend.normal((500, 20), batch.seed))
    assert abs(np.corrcoef(noise.ravel(), start.ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(noise[::2].ravel(), noise[1::2].ravel())[0, 1]) < 0.05


def test_noise_is_a_function_of_seed_and_step():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10, 0.3)
    first = noisy_copies.draw_noise(forward_passes.batch(iteration=5), schedule, 3)
    again = noisy_copies.draw_noise(forward_passes.batch(x=forward_passes.X_ADV), 0.2, 3)
    np.testing.assert_allclose(first, again, rtol=1e-6)
    other = noisy_copies.draw_noise(forward_passes.batch(seed=(3, 5)), 0.2, 3)
    assert np.all(np.abs(other - again) > 0.0)


@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT[:3]])
def test_copies_of_an_example_follow_one_another_with_its_label_and_weight(sample_weight):
    noise = np.random.default_rng(2).normal(size=(6, 2, 2, 1)).astype("float32")
    batch = forward_passes.batch(IMAGES, {"label": np.array([2, 0, 1])}["label"], sample_weight)
    found = noisy_copies.copies(batch, noise, 2)
    rows = [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(found.x, IMAGES[rows] + noise, rtol=1e-6)
    np.testing.assert_array_equal(found.y, [2, 2, 0, 0, 1, 1])
    if sample_weight is None:
        assert found.sample_weight is None
    else:
        np.testing.assert_array_equal(found.sample_weight, sample_weight[rows])
    assert found.seed is batch.seed


def test_structures_are_repeated_leaf_by_leaf():
    found = noisy_copies.repeat_rows({"a": np.array([1, 2]), "b": (np.array([[3], [4]]), None)}, 2)
    np.testing.assert_array_equal(found["a"], [1, 1, 2, 2])
    np.testing.assert_array_equal(found["b"][0], [[3], [3], [4], [4]])
    assert found["b"][1] is None


def test_the_mean_of_predictions():
    logits = np.random.default_rng(3).normal(size=(6, 4))
    probabilities = np.exp(forward_passes.log_softmax(logits)).reshape(2, 3, 4).mean(axis=1)
    found = noisy_copies.log_mean_probabilities(logits.astype("float32"), 3)
    np.testing.assert_allclose(found, np.log(probabilities), rtol=1e-5)


def test_the_mean_of_confident_predictions():
    logits = np.array([[0.0, -500.0], [0.0, -300.0]], "float32")
    found = noisy_copies.log_mean_probabilities(logits, 2)
    np.testing.assert_allclose(found, [[0.0, -300.0 - np.log(2.0)]], rtol=1e-6)


def test_several_inputs_and_layers_cannot_be_copied():
    first, second = keras.Input((2,)), keras.Input((2,))
    model = keras.Model([first, second], keras.layers.Dense(2)(first + second))
    with refusals.assert_refused("MACER runs the model.*GaussianNoise.*with 2 inputs"):
        noisy_copies.check_copies("MACER", model, kr.L2(0.1))
    ball = kr.threat_models.AtLayer("dense", kr.L2(0.1, None))
    with pytest.raises(ValueError, match="MACER runs the model.*GaussianNoise.*AtLayer"):
        noisy_copies.check_copies("MACER", keras.Model(first, first), ball)
    noisy_copies.check_copies("MACER", keras.Model(first, first), kr.L2(0.1))
