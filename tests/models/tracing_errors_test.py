import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust.models.tracing_errors import tracing_error_context
from tests.support import small_models

X = np.random.default_rng(0).uniform(size=(6, 4)).astype("float32")
KERNEL = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
Y = np.argmax(X @ KERNEL, axis=-1)
NETWORK = small_models.simple()
NETWORK.set_weights([KERNEL, np.zeros(3)])


def on_arrays(x):
    return np.asarray(x) @ KERNEL


def through_predict(x):
    return NETWORK.predict(x, verbose=0)


USES = {
    "evaluate": lambda model: kr.evaluate(model, (X, Y), attacks="fgsm", minimum_norm=None),
    "sanity_check": lambda model: kr.sanity_check(model, (X, Y)),
    "run": lambda model: kr.attacks.PGD(num_steps=1).run(model, X, Y, kr.Linf(0.1)),
    "certify": lambda model: kr.certify(model, (X, Y), noise_stddev=0.1, num_samples=100),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("model", [on_arrays, through_predict, NETWORK.predict])
def test_functions_of_arrays_get_the_advice_to_use_black_box(model, use):
    message = r"turns tensors into NumPy arrays.*`model\(x\)`.*kr.evaluation.BlackBox\(function"
    with pytest.raises(ValueError, match=message):
        USES[use](model)


def test_the_advice_works():
    black_box = kr.evaluation.BlackBox(on_arrays, num_classes=3)
    report = kr.evaluate(black_box, (X, Y), kr.Linf(0.01), kr.attacks.Square(num_queries=5))
    assert report.clean_accuracy == 1.0


def test_other_errors_and_those_on_numbers_are_left_alone():
    for inputs, error in ((X, TypeError("numpy")), (X, NotImplementedError("numpy"))):
        with pytest.raises(type(error), match="^numpy$"), tracing_error_context(on_arrays, inputs):
            raise error

    def traced(x):
        with tracing_error_context(on_arrays, x):
            raise TypeError("something else")

    with pytest.raises(TypeError, match="something else"):
        backend.compile_function(traced)(keras.ops.convert_to_tensor(X))
