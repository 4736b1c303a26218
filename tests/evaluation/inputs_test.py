import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.inputs import EvaluationInputs
from tests.support import refusals

X, Y = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.5]], "float32"), np.eye(2)[[0, 1, 1]]


def test_holds_the_first_examples_their_classes_and_clean_logits():
    found = EvaluationInputs.of(lambda x: 3.0 * x, (X, Y), "linf", num_examples=2, batch_size=1)
    np.testing.assert_array_equal(found.x, X[:2])
    np.testing.assert_array_equal(found.labels, [0, 1])
    np.testing.assert_allclose(found.logits, 3.0 * X[:2], rtol=1e-6)
    assert isinstance(found.threat_model, kr.Linf)
    np.testing.assert_allclose(found.model(X[2:]), 3.0 * X[2:], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 3}, "Expected a keras.Model"),
        ({"data": (X - 1.0, Y)}, "bounds"),
        ({"data": (X, [0, 1, 2])}, "Labels must be class indices"),
        ({"threat_model": "l7"}, "l7"),
        ({"batch_size": 0}, "`batch_size` must be an int >= 1"),
    ],
)
def test_errors_name_the_wrong_argument(changes, message):
    arguments = {"model": lambda x: x, "data": (X, Y), "threat_model": "linf", **changes}
    arguments = {"num_examples": None, "batch_size": 2, **arguments}
    with refusals.assert_refused(message):
        EvaluationInputs.of(**arguments)
