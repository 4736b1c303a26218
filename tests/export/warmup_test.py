import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.export.guards import choose_guards
from keras_robust.export.inputs import Inputs
from keras_robust.export.served_model import ServedModel
from keras_robust.export.signatures import make_signatures
from keras_robust.export.warmup import make_warmup_requests
from keras_robust.layers import InputGuard
from tests.support import refusals

X = np.random.default_rng(0).uniform(-1.0, 1.0, size=(9, 4, 5, 1)).astype("float32")


def exchanges_of(x, guard):
    model = keras.Sequential(
        [keras.Input((4, 5, 1), name="images"), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    inputs = Inputs(model)
    served = ServedModel(model, inputs, choose_guards(model, inputs, guard, None))
    data = None if x is None else (x, None)
    return model, make_warmup_requests(served, make_signatures(served, None), data)


def test_requests_are_the_first_examples_and_answers_those_of_keras():
    model, found = exchanges_of(X, InputGuard((-1, 1)))
    kinds = [(one.signature, len(next(iter(one.inputs.values())))) for one in found]
    names = ["serving_default", "logits", "predict_bytes"]
    assert kinds == [(name, size) for name in names for size in (1, 8)]
    np.testing.assert_array_equal(found[1].inputs["images"], X[:8])
    np.testing.assert_allclose(found[3].outputs["logits"], model(X[:8]), rtol=1e-5)
    np.testing.assert_allclose(
        found[1].outputs["probabilities"], tf.nn.softmax(model(X[:8])), rtol=1e-5
    )


def test_pictures_are_the_examples_on_the_scale_of_the_guard():
    _, found = exchanges_of(X, InputGuard((-1, 1)))
    file = found[-1].inputs["image_bytes"][3]
    np.testing.assert_allclose(tf.io.decode_png(file).numpy() / 127.5 - 1.0, X[3], atol=1 / 255)
    expected = found[1].outputs["probabilities"]
    np.testing.assert_allclose(found[-1].outputs["probabilities"], expected, atol=0.02)


def test_random_requests_pass_the_guard():
    _, found = exchanges_of(None, InputGuard((-3, -2)))
    images = found[1].inputs["images"]
    assert images.shape == (8, 4, 5, 1)
    assert -3.0 <= images.min() < images.max() <= -2.0


def test_few_examples_are_enough():
    _, found = exchanges_of(X[:2], InputGuard((-1, 1)))
    assert len(found[1].inputs["images"]) == 2


def test_examples_that_the_guard_rejects():
    message = r"rejects the examples.*within \[0.0, 1.0\]. Received"
    with refusals.assert_refused(message, times=2):
        exchanges_of(X, InputGuard((0, 1)))


def test_answers_are_those_of_the_model_and_not_of_the_signature():
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(3)])
    served = ServedModel(model, Inputs(model), [None])
    signatures = make_signatures(served, None)
    function = signatures["logits"].function
    wrong = signatures["logits"]._replace(
        function=lambda x: {"logits": function(x)["logits"] + 1.0}
    )
    found = make_warmup_requests(served, {"logits": wrong}, (X[:2, 0, :3, 0], None))
    np.testing.assert_allclose(found[0].outputs["logits"], model(X[:1, 0, :3, 0]), rtol=1e-6)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_single_output_has_two_classes(activation):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation=activation)])
    served = ServedModel(model, Inputs(model), [None])
    found = make_warmup_requests(served, make_signatures(served, None))
    share = np.asarray(model(found[1].inputs[served.inputs.specs[0].name]))
    share = share if activation else 1.0 / (1.0 + np.exp(-share))
    expected = np.concatenate([1.0 - share, share], axis=-1)
    np.testing.assert_allclose(found[1].outputs["probabilities"], expected, atol=1e-6)


def test_a_guard_inside_the_model_bounds_random_requests():
    model = keras.Sequential([keras.Input((3,)), InputGuard((5, 6)), keras.layers.Dense(2)])
    served = ServedModel(model, Inputs(model), [None])
    found = make_warmup_requests(served, make_signatures(served, None))
    assert found[0].inputs[served.inputs.specs[0].name].min() >= 5.0
