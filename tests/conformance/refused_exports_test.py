"""Models, names and reports that `export_saved_model` refuses."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import refusals
from tests.support import reports
from tests.support import small_models
from tests.support import tiers


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(x)


def _built():
    model = _Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


def _regression():
    model = small_models.simple()
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "^Expected a built keras.Model: call"),
        (_Subclassed, "^Expected a built keras.Model"),
        (lambda: lambda x: x, "^Expected a built keras.Model.*Received: <function"),
        (_built, r"`keras.Model\(inputs, model\(inputs\)\)`. Received: _Subclassed with 0 inputs"),
        (_regression, "^Expected one classification output.*under the loss 'mean_squared_error'"),
    ],
)
def test_models_that_are_refused(tmp_path, make, message):
    with refusals.assert_refused(message, folder=tmp_path):
        kr.export_saved_model(make(), tmp_path / "1", guard=kr.layers.InputGuard())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"], []])
def test_a_wrong_number_of_names(tmp_path, names):
    message = f"Expected 3 label names, one for each class. Received: {len(names)} names"
    with refusals.assert_refused(message, folder=tmp_path):
        kr.export_saved_model(
            small_models.simple(), tmp_path / "1", label_names=names, guard=kr.layers.InputGuard()
        )
    assert list(tmp_path.iterdir()) == []


def test_logits_under_a_loss_of_probabilities_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, bias_initializer="ones")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with refusals.assert_refused(
        "takes probabilities, but the outputs of the model do", folder=tmp_path
    ):
        kr.export_saved_model(model, tmp_path / "1", guard=kr.layers.InputGuard())
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_a_report_of_a_model_with_another_accuracy_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(-1.0)])
    x, y = np.eye(3, dtype="float32"), np.arange(3)
    message = "it states 100.00% accuracy without attack. Received: a model with 0.00% on"
    with refusals.assert_refused(message, folder=tmp_path):
        kr.export_saved_model(model, tmp_path / "1", report=reports.of_identity(3))
    report = kr.RobustnessReport.from_dict(reports.of_identity(3).to_dict())
    with refusals.assert_refused(message, folder=tmp_path):
        kr.export_saved_model(model, tmp_path / "1", report=report, data=(x, y))
    with refusals.assert_refused("Received: 2 examples and a report on 3", folder=tmp_path):
        kr.export_saved_model(model, tmp_path / "1", report=report, data=(x[:2], y[:2]))
    # Without the examples nobody knows.
    kr.export_saved_model(model, tmp_path / "1", report=report)


@pytest.mark.parametrize("name", [0, b"a", "a\n# b", "a\x00", "\ud800", "\u2028"])
def test_names_that_are_no_line_of_text(tmp_path, name):
    with refusals.assert_refused(
        "`label_names` must be a list of str without control", folder=tmp_path
    ):
        kr.export_saved_model(
            small_models.simple(),
            tmp_path / "1",
            label_names=["a", "b", name],
            guard=kr.layers.InputGuard(),
        )


@tiers.parametrize(
    ("report", "message"),
    [
        (lambda: "report.json", "Expected a RobustnessReport.*Received: report='report.json'"),
        (lambda: reports.of_identity(2), "it has 2 classes. Received: a model with 3 classes"),
    ],
)
def test_a_report_of_something_else_is_refused(tmp_path, report, message):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with refusals.assert_refused(message, folder=tmp_path):
        kr.export_saved_model(model, tmp_path / "1", report=report())
