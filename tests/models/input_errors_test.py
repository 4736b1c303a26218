import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.backend import NoGradientError
from tests.support import refusals
from tests.support import tiers


def _text_model(name="words", more=()):
    tokens = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(9, 4, name=name)(tokens)
    for other in more:
        x = x + keras.layers.Embedding(9, 4, name=other)(tokens)
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(x))
    model = keras.Model(tokens, outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


X, Y = np.arange(20).reshape(4, 5) % 2, np.arange(4) % 2


@tiers.parametrize(
    "objective", ["adversarial", "trades", "vat", kr.objectives.AWP(0.01), "input_gradient"]
)
def test_a_text_model_gets_advice_that_works(objective):
    model = _text_model()
    message = r'AtLayer\("words", kr.L2\(1.0, bounds=None\)\).*Received: .*\[\'words\'\]'
    attack = None if objective in ("trades", "vat") else "fgsm"
    with refusals.assert_refused(message):
        callback = kr.AdvTrain(attack=attack, objective=objective)
        model.fit(X, Y, verbose=0, callbacks=[callback])
    if objective != "adversarial":
        return
    ball = kr.threat_models.AtLayer("words", kr.L2(1.0, bounds=None))
    history = model.fit(X, Y, verbose=0, callbacks=[kr.AdvTrain(ball, attack="fgsm", warmup=0)])
    assert "adv_accuracy" in history.history


def test_errors_for_mixed_inputs_stay_unchanged():
    image, place = keras.Input((5,), name="image"), keras.Input((5,), name="place", dtype="int32")
    words = keras.layers.Flatten()(keras.layers.Embedding(9, 4)(place))
    model = keras.Model([image, place], keras.layers.Concatenate()([image, words]))
    with pytest.raises(NoGradientError, match="leaves JAX"), models.input_error_context(model):
        raise NoGradientError("JAX", "out", [2, 3], "float32")


def test_every_embedding_is_named_and_other_models_keep_their_error():
    with pytest.raises(ValueError, match=r"\(or at one of \['places'\]\)"):
        with models.input_error_context(_text_model(more=["places"])):
            raise NoGradientError("JAX", "out", [2, 3], "float32")
    with pytest.raises(NoGradientError, match="leaves JAX"):
        with models.input_error_context(keras.Sequential([keras.layers.Dense(2)])):
            raise NoGradientError("JAX", "out", [2, 3], "float32")
