"""Sparse inputs beside the attacked one train; a sparse attacked one is refused."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import refusals

if backends.IS_JAX:
    pytest.skip("Sparse tensors of tf.data are for TensorFlow.", allow_module_level=True)

import tensorflow as tf

X = np.random.default_rng(0).uniform(size=(16, 4)).astype("float32")
Y = (X[:, 0] > 0.5).astype("int32")
SPARSE = tf.sparse.from_dense(np.where(X > 0.6, X, 0.0))
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(is_sparse, callbacks):
    keras.utils.set_random_seed(1)
    a, b = keras.Input((4,), name="a"), keras.Input((4,), sparse=is_sparse, name="b")
    outputs = keras.layers.Dense(2)(a) + keras.layers.Dense(2)(b)
    model = keras.Model({"a": a, "b": b}, outputs)
    model.compile("sgd", LOSS)
    second = SPARSE if is_sparse else tf.sparse.to_dense(SPARSE)
    data = tf.data.Dataset.from_tensor_slices(({"a": X, "b": second}, Y)).batch(8)
    model.fit(data, verbose=0, callbacks=callbacks)
    return model.get_weights()


def test_a_sparse_input_beside_the_attacked_one_trains_as_a_dense_one():
    found, expected = (
        train(is_sparse, [kr.AdvTrain({"a": kr.Linf(0.1)}, attack="bim", warmup=0)])
        for is_sparse in (True, False)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [{"b": kr.Linf(0.1)}, kr.threat_models.Joint("l2", ["a", "b"])])
def test_a_sparse_attacked_input_of_several_is_refused(parts):
    with pytest.raises(ValueError, match="Make the input dense.*sparse tensor for the input 'b'"):
        train(True, [kr.AdvTrain(parts, warmup=0)])


def test_a_sparse_only_input_is_refused():
    model = keras.Sequential([keras.Input((4,), sparse=True), keras.layers.Dense(2)])
    model.compile("sgd", LOSS)
    data = tf.data.Dataset.from_tensor_slices((SPARSE, Y)).batch(8)
    with refusals.assert_refused("Make the input dense.*sparse tensor for the input$", model):
        model.fit(data, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1), warmup=0)])
    with pytest.raises(ValueError, match="Make the input dense.*Received: a sparse tensor"):
        kr.evaluate(model, data, kr.Linf(0.1), attacks="pgd")
