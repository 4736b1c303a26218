"""A model that ends in a softmax is one classification, whatever its loss compares."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

X, Y = linear_fit.data()
ROWS = np.eye(linear_fit.NUM_CLASSES, dtype="float32")[Y]
WEIGHTS = linear_fit.initial_weights()
BALL = kr.Linf(0.2)
MARGINS = (X @ WEIGHTS)[np.arange(len(Y)), Y][:, None] - X @ WEIGHTS


def _model(loss, metrics=("accuracy",)):
    head = keras.layers.Dense(linear_fit.NUM_CLASSES, activation="softmax", use_bias=False)
    model = keras.Sequential([keras.Input((linear_fit.NUM_FEATURES,)), head])
    head.set_weights([WEIGHTS])
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=list(metrics))
    return model


@tiers.parametrize("loss", ["binary_crossentropy", "mse"])
def test_labels_may_be_indices_or_rows(loss):
    model = _model(loss)
    expected = _model("categorical_crossentropy")
    want = kr.evaluate(expected, (X, ROWS), BALL, "fgsm", minimum_norm=None)
    for labels in (Y, ROWS):
        report = kr.evaluate(model, (X, labels), BALL, "fgsm", minimum_norm=None)
        assert report.clean_accuracy == np.mean(MARGINS.min(-1) >= 0.0)
        assert report.robust_accuracy == want.robust_accuracy < report.clean_accuracy


@tiers.parametrize("labels", [Y, ROWS])
def test_validation_and_training(labels):
    validation = kr.RobustValidation((X, labels), BALL, attack="fgsm")
    callbacks = [kr.AdvTrain(BALL, attack="fgsm", warmup=0), validation]
    logs = _model("binary_crossentropy").fit(
        X, ROWS, batch_size=len(X), verbose=0, callbacks=callbacks
    )
    # Nothing is learned: both see the same points.
    assert logs.history["adv_accuracy"] == pytest.approx(logs.history["val_adv_accuracy"])
    want = kr.evaluate(_model("categorical_crossentropy"), (X, Y), BALL, "fgsm", minimum_norm=None)
    assert logs.history["val_adv_accuracy"][0] == pytest.approx(want.robust_accuracy)


def test_training_needs_labels_as_the_loss_does():
    model = _model("mse", metrics=())
    with refusals.assert_refused("takes one-hot rows, and the labels are class indices", model):
        model.fit(X, Y[:, None], verbose=0, callbacks=[kr.AdvTrain(BALL, attack="fgsm")])
