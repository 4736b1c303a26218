"""What is no classification has the loss under the training attack in the logs."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import refusals
from tests.support import tiers

X = np.random.default_rng(0).uniform(0.0, 0.8, size=(10, 4)).astype("float32")
RNG = np.random.default_rng(1)
TARGETS = {
    "regression": RNG.normal(size=(10, 3)).astype("float32"),
    "labels": RNG.integers(0, 2, size=(10, 3)).astype("float32"),
    "sequence": RNG.integers(0, 3, size=(10, 2)),
}
LOSSES = {
    "regression": "mse",
    "labels": keras.losses.BinaryCrossentropy(from_logits=True),
    "sequence": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
}


class Shift(kr.attacks.Attack):
    """Moves every coordinate up, so that Keras can be given the same examples."""

    def perturb(self, classifier, x, y, threat_model, seed):
        return kr.attacks.AttackResult.unattacked(x + threat_model.radius)


def _model(names, regularizer=None):
    inputs = keras.Input((4,))
    outputs = {}
    for name in names:
        units = 6 if name == "sequence" else 3
        head = keras.layers.Dense(units, kernel_regularizer=regularizer)(inputs)
        outputs[name] = keras.layers.Reshape((2, 3))(head) if name == "sequence" else head
    if len(names) == 1:
        (outputs,), (loss,) = outputs.values(), [LOSSES[name] for name in names]
    else:
        loss = {name: LOSSES[name] for name in names}
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model


@tiers.parametrize(
    "names", [["regression"], ["labels"], ["sequence"], ["regression", "sequence"]], ids=str
)
@tiers.parametrize("objective", ["adversarial", "mixed"])
def test_the_loss_is_that_of_keras_on_the_adversarial_examples(names, objective):
    model = _model(names, regularizer="l2")
    y = {name: TARGETS[name] for name in names}
    y = y if len(names) > 1 else y[names[0]]
    callback = kr.AdvTrain(kr.Linf(0.1), attack=Shift(), objective=objective, warmup=0)
    history = model.fit(X, y, batch_size=4, epochs=2, verbose=0, callbacks=[callback]).history
    plain = _model(names)
    plain.set_weights(model.get_weights())
    expected = plain.evaluate(X + 0.1, y, verbose=0)
    expected = expected[0] if isinstance(expected, list) else expected
    assert history["adv_loss"] == [pytest.approx(expected, rel=1e-5)] * 2
    assert "adv_accuracy" not in history


def _judge(model, y, how):
    data, ball = (X, y), kr.Linf(0.1)
    if how == "fit":
        return model.fit(X, y, verbose=0, callbacks=[kr.RobustValidation(data, ball)])
    if how == "export":
        return kr.export_saved_model(model, "out")
    return kr.evaluate(model, data, ball) if how == "evaluate" else kr.certify(model, data, how)


@tiers.parametrize("name", ["regression", "labels", "sequence"])
@tiers.parametrize("how", ["evaluate", "interval", "export", "fit"])
def test_what_judges_classifications_says_what_to_do_with_others(name, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = (
        r"need a single classification. With several outputs.*"
        r"model.evaluate\(kr.attacks.PGD.*Received: "
    )
    with refusals.assert_refused(message, folder=tmp_path) as raised:
        _judge(_model([name]), TARGETS[name], how)
    assert "objective" not in str(raised.value)


def test_the_advice_for_others_works():
    model, y = _model(["regression"]), TARGETS["regression"]
    attack = kr.attacks.PGD(loss="compiled")
    attacked = model.evaluate(attack(model, X, y, kr.Linf(0.1)), y, verbose=0)
    assert attacked > model.evaluate(X, y, verbose=0)


@tiers.parametrize("loss", ["mse", "huber", "mae"])
def test_classes_under_a_loss_of_regression_are_told(loss):
    model, y = _model(["regression"]), np.eye(3, dtype="float32")[np.arange(10) % 3]
    model.compile("sgd", loss, metrics=["accuracy"])
    callback = kr.AdvTrain(kr.Linf(0.1), attack=Shift(), warmup=0)
    message = "CategoricalCrossentropy.*Received: loss='.* of shape"
    with refusals.assert_warned_once(message):
        history = model.fit(X, y, verbose=0, callbacks=[callback]).history
    assert set(history) == {"accuracy", "adv_loss", "loss"}


def test_a_loss_of_ones_own_without_regularisers_is_the_whole_of_it():
    class Own(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.square(y - y_pred))

    model = Own([keras.Input((4,)), keras.layers.Dense(1, kernel_regularizer="l2")])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = np.ones((8, 4), "float32"), np.zeros((8, 1), "float32")
    callback = kr.AdvTrain(kr.Linf(0.0), attack=Shift(), warmup=0)
    logs = model.fit(x, y, verbose=0, callbacks=[callback]).history
    expected = np.mean(np.square(np.asarray(model(x))))
    np.testing.assert_allclose(
        [logs["loss"], logs["adv_loss"]], [[expected], [expected]], rtol=1e-5
    )


@pytest.mark.exhaustive
@tiers.parametrize("objective", ["clean", kr.objectives.Kurakin(0.5, 0.3)])
def test_there_is_none_without_an_attack_on_all_examples(objective):
    model = _model(["regression"])
    callback = kr.AdvTrain(kr.Linf(0.1), attack=Shift(), objective=objective, warmup=0)
    history = model.fit(X, TARGETS["regression"], verbose=0, callbacks=[callback]).history
    assert set(history) == {"loss"}
