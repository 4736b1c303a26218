import numpy as np
import pytest

import keras_robust as kr
from tests.support import small_models

X, Y = np.full((4, 4), 0.5, "float32"), np.arange(4) % 3


@pytest.mark.parametrize("cls", kr.callbacks.ALL)
def test_a_class_among_the_callbacks_raises_a_helpful_error(cls):
    model = small_models.simple()
    model.compile("sgd", "mse")
    message = rf"write callbacks=\[{cls.__name__}\(...\)\]. Received: the class {cls.__name__}$"
    with pytest.raises(TypeError, match=message):
        model.fit(X, np.zeros((4, 3)), verbose=0, callbacks=[cls])


def test_methods_of_objects_and_of_subclasses_are_as_before():
    class Mine(kr.RobustValidation):
        def set_model(self, model):
            super().set_model(model)
            self.seen = model

    model = small_models.simple()
    for callback in (Mine((X, Y)), kr.AdvTrain()):
        callback.set_model(model)
        assert callback.model is model
    assert Mine((X, Y)).set_model.__self__ is not None
    callback = kr.AdvTrain()
    kr.AdvTrain.set_model(callback, model)
    assert callback.model is model
