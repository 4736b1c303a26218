import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import training
from tests.support import forward_passes
from tests.support import linear_fit
from tests.support import numpy_reference
from tests.support import small_models
from tests.support import tiers


class Refusing(kr.attacks.Attack):
    def perturb(self, *request):
        raise AssertionError("Plain training makes no attack.")


def _loss(**arguments):
    return float(
        kr.objectives.Clean().loss(
            *forward_passes.forward_passes(forward_passes.model(), **arguments)
        )
    )


@pytest.mark.parametrize("weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_loss_of_the_clean_examples(weight):
    terms = forward_passes.cross_entropy(numpy_reference.logits(forward_passes.X.astype("float64")))
    assert _loss(sample_weight=weight) == pytest.approx(
        forward_passes.mean(terms, weight), rel=1e-5
    )


def test_regularisers_count_once():
    with_penalty = kr.objectives.Clean().loss(
        *forward_passes.forward_passes(forward_passes.model(penalty=0.1))
    )
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss() == pytest.approx(penalty, rel=1e-5)


def test_the_adversarial_batch_is_not_run():
    clean, adversarial = forward_passes.forward_passes(forward_passes.model())
    kr.objectives.Clean().loss(clean, adversarial)
    assert clean.was_used
    assert not adversarial.was_used


def test_no_attack_runs():
    batch = forward_passes.batch()
    found = kr.objectives.Clean().perturb(Refusing(), None, batch)
    assert found.x_adv is batch.x
    assert not np.any(found.success) and not np.any(found.zero_gradient)
    assert kr.objectives.Clean().runs_attack is False


@tiers.parametrize("arguments", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_fit_is_what_it_is_without_the_callback(arguments):
    x, y = small_models.images(small_models.convolution(), 10)
    weights = np.linspace(0.0, 2.0, 10)
    results = []
    for callbacks in ([], [kr.AdvTrain(attack=Refusing(), objective="clean")]):
        model = small_models.convolution()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], **arguments)
        keras.utils.set_random_seed(5)
        history = model.fit(
            x, y, batch_size=4, epochs=2, sample_weight=weights, verbose=0, callbacks=callbacks
        )
        results.append((model.get_weights(), history.history))
    # BatchNorm and Dropout are in the model, and the order of the data is drawn.
    for plain, found in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    assert set(results[1][1]) == {"accuracy", "loss"}
    for name, values in results[0][1].items():
        np.testing.assert_allclose(results[1][1][name], values, rtol=1e-5)


def test_the_loss_of_a_regression():
    x, y = linear_fit.data()
    model = linear_fit.make_model(loss="mse")
    expected = np.mean((x @ linear_fit.initial_weights() - np.eye(3)[y]) ** 2)
    model.optimizer.learning_rate = 0.0
    callback = kr.AdvTrain(objective="clean")
    with pytest.warns(UserWarning, match="trained as a regression"):
        history = linear_fit.fit(model, callback, x, np.eye(3)[y])
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_a_step_runs_the_model_once():
    model = forward_passes.model()
    classifier = forward_passes.CountedClassifier(model)
    gradient_step = training.GradientStep(classifier, forward_passes.batch())
    kr.objectives.Clean().step(gradient_step, Refusing(), forward_passes.batch())
    assert classifier.num_calls == 1
