"""Defensive distillation, the negative control: an evaluation that it fools is wrong."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import datasets

pytestmark = pytest.mark.exhaustive

TEMPERATURE = 100.0
BALL = kr.Linf(0.15)
NUM_EXAMPLES = 100
CROSS_ENTROPY = kr.attacks.PGD(num_steps=20, loss="cross_entropy")
HONEST = {loss: kr.attacks.PGD(num_steps=20, loss=loss) for loss in ("margin", "dlr")}


def _train(loss=None, callbacks=()):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-2), loss)
    x, y = datasets.load("digits").train
    model.fit(x, y, batch_size=64, epochs=12, verbose=0, callbacks=list(callbacks))
    return model


@pytest.fixture(scope="module")
def data():
    x, y = datasets.load("digits").test
    return x[:NUM_EXAMPLES], y[:NUM_EXAMPLES]


@pytest.fixture(scope="module")
def undefended():
    return _train()


@pytest.fixture(scope="module")
def distilled():
    """The student of Papernot et al., whose labels a teacher of the same temperature made."""
    teacher = _train(kr.losses.TemperatureCrossEntropy(TEMPERATURE))
    objective = kr.objectives.DefensiveDistillation(teacher, TEMPERATURE)
    return _train(callbacks=[kr.AdvTrain(objective=objective)])


@pytest.fixture(scope="module")
def report(distilled, data):
    return kr.evaluate(distilled, data, BALL, [CROSS_ENTROPY, *HONEST.values()])


def test_a_distilled_model_classifies_as_well_as_another(report):
    assert report.clean_accuracy > 0.85


def test_its_softmax_is_saturated(distilled, data):
    logits = distilled.predict(data[0], verbose=0)
    probabilities = np.asarray(keras.ops.softmax(logits))
    assert np.mean(probabilities.max(axis=-1) == 1.0) > 0.8


def test_cross_entropy_attacks_are_fooled(report):
    fooled = report.attacks[0]
    assert fooled.settings["loss"] == "cross_entropy"
    assert fooled.accuracy > 0.75
    assert fooled.zero_gradient > 0.75


def test_attacks_on_the_logits_break_it_as_they_break_the_undefended_model(
    report, undefended, data
):
    plain = kr.evaluate(undefended, data, BALL, HONEST["margin"])
    for broken in report.attacks[1:]:
        assert broken.accuracy < plain.robust_accuracy + 0.2 < 0.5
        assert broken.zero_gradient == 0.0


def test_the_evaluation_reports_the_low_number_and_says_why_the_high_one_is_wrong(report):
    lowest = min(attack.accuracy for attack in report.attacks)
    assert report.robust_accuracy <= lowest < report.attacks[0].accuracy - 0.5
    assert any("found only zero gradients" in check.advice for check in report.checks)


def test_the_standard_attacks_break_it(distilled, data):
    report = kr.evaluate(distilled, data, BALL, "standard", num_examples=20)
    assert report.robust_accuracy < 0.4
