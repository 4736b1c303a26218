"""Bad input: each is refused with what was received, and costs no training."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

X, Y = linear_fit.data()


def _spoiled(value):
    x = X.copy()
    x[20, 1] = value
    return x


@backends.with_and_without_xla
@tiers.parametrize(
    ("x", "y", "message"),
    [
        (X, Y + 1, "Labels must be class indices from 0 to 2.*labels from 1 to 3"),
        (X, Y - 1, "Labels must be class indices from 0 to 2.*labels from -1 to 1"),
        (_spoiled(np.nan), Y, "Inputs must be finite.*1 NaN or infinite"),
        (_spoiled(np.inf), Y, "Inputs must be finite.*1 NaN or infinite"),
        (_spoiled(200.0), Y, r"Inputs must lie in the bounds.*to 200 under bounds=\(0.0, 1.0\)"),
        (_spoiled(-3.0), Y, r"Inputs must lie in the bounds.*values from -3"),
    ],
    ids=["label high", "label low", "nan", "inf", "0-255", "negative"],
)
def test_bad_batches_stop_the_training_before_they_are_learned(x, y, message, jit_compile):
    model = linear_fit.make_model(jit_compile=jit_compile)
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[linear_fit.adv_train()])
    if y is Y:  # The bad example is in the third batch: the model has learned from two.
        weights, _ = linear_fit.expected(X[:16], Y[:16])
        np.testing.assert_allclose(model.layers[-1].get_weights()[0], weights, atol=1e-5)


def _fit(model, x=X, y=Y, callback=None):
    return model.fit(x, y, verbose=0, callbacks=[callback or linear_fit.adv_train()])


def test_wrong_rank():
    model = linear_fit.make_model()
    message = r"expected shape=\(None, 4\), found shape=\(22, 4, 1\)|incompatible"
    with pytest.raises(ValueError, match=message):
        _fit(model, X[:, :3])
    assert int(model.optimizer.iterations) == 0


def _softmax_model(loss, activation="softmax"):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=activation)])
    model.compile("sgd", loss)
    return model


def test_softmax_under_from_logits():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = _softmax_model(loss)
    with refusals.assert_refused("ends in a softmax or sigmoid, but its loss", model):
        _fit(model)


def test_hidden_softmax_under_from_logits():
    def hidden(x):
        powers = keras.ops.exp(x)
        return powers / keras.ops.sum(powers, axis=-1, keepdims=True)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = _softmax_model(loss, hidden)
    before = model.get_weights()
    with pytest.raises(ValueError, match="outputs of the model are probabilities"):
        _fit(model)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_logits_under_a_loss_of_probabilities():
    model = _softmax_model("sparse_categorical_crossentropy", None)
    with refusals.assert_refused("takes probabilities, but the outputs of the model do", model):
        _fit(model)


def test_a_model_that_was_not_compiled():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with refusals.assert_refused("compile", model, times=0):
        _fit(model)


def test_a_model_with_a_custom_train_step():
    class Own(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    model = Own([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with refusals.assert_refused("`Own` defines `train_step`", model):
        _fit(model)


@backends.tensorflow_only("on JAX a train step takes the state of the variables")
def test_an_attack_in_a_custom_train_step_works_as_the_error_says():
    class Own(keras.Sequential):
        def train_step(self, data):
            x, y = data
            attack = kr.attacks.FGSM()
            epsilon = kr.Linf(linear_fit.EPSILON)
            x = attack(self, x, y, epsilon, seed=self.optimizer.iterations)
            return super().train_step((x, y))

    head = keras.layers.Dense(3, use_bias=False)
    model = Own([keras.Input((4,)), head])
    head.set_weights([linear_fit.initial_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(linear_fit.LEARNING_RATE), loss)
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    weights, _ = linear_fit.expected(X, Y)
    np.testing.assert_allclose(head.get_weights()[0], weights, atol=1e-5)


def test_an_unknown_attack_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="Unknown attack. Expected one of 'apgd', .*'fgsm'.*'pgdd'"
    ):
        kr.AdvTrain(attack="pgdd")


def test_unknown_objective_and_threat_model():
    with pytest.raises(ValueError, match="Unknown objective.*'trades'.*Received: 'x'"):
        kr.AdvTrain(objective="x")
    with refusals.assert_refused("A radius alone is not a threat model.*Received: 3"):
        kr.AdvTrain(3)


def test_negative_epsilon():
    message = "Argument `epsilon` must be finite and not negative"
    refusals.assert_argument_refused(kr.Linf, message, epsilon=-0.1)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@backends.tensorflow_only("on JAX Keras itself looks at a batch first, and stops")
def test_an_empty_data_set():
    model = linear_fit.make_model()
    with refusals.assert_refused("Received: an empty data set", model):
        _fit(model, X[:0], Y[:0])


def test_data_of_unknown_length_have_no_percentage():
    def generator():
        while True:
            yield X[:8], Y[:8]

    model = linear_fit.make_model()
    with refusals.assert_refused("length of the data is not known. Pass `steps_per_epoch`", model):
        model.fit(generator(), verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1), warmup="20%")])


@backends.tensorflow_only("on JAX Keras itself looks at a batch first, and stops")
def test_missing_labels():
    model = linear_fit.make_model()
    with refusals.assert_refused("AdvTrain needs labels", model):
        model.fit(X, verbose=0, callbacks=[linear_fit.adv_train()])


def test_several_inputs():
    inputs = [keras.Input((4,), name="a"), keras.Input((4,), name="b")]
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Add()(inputs)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with refusals.assert_refused("has several inputs. Choose .*Received: inputs 2 tensors", model):
        _fit(model, [X, X])


def test_two_callbacks():
    model = linear_fit.make_model()
    callbacks = [linear_fit.adv_train(), linear_fit.adv_train()]
    with refusals.assert_refused("One `fit` takes one AdvTrain", model):
        model.fit(X, Y, verbose=0, callbacks=callbacks)


@backends.tensorflow_only("replicas are TensorFlow's")
@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
def test_xla_under_several_replicas():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = linear_fit.make_model(jit_compile=True)
    with refusals.assert_refused("Use jit_compile=False. Received: .* with 2 replicas", model):
        _fit(model)


def test_a_regression_model_refuses_objectives_on_logits():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with refusals.assert_refused("Expected one classification output", model):
        _fit(model, y=Y.astype("float32"), callback=kr.AdvTrain(objective="trades", warmup=0))


@pytest.mark.parametrize(
    ("threat_model", "message"),
    [
        (lambda: kr.Linf([0.1, 0.1, 0.1]), "must broadcast against the inputs"),
        (lambda: kr.L2(np.full(4, 0.1)), "one value per example"),
    ],
)
def test_an_epsilon_of_another_shape(threat_model, message):
    model = linear_fit.make_model()
    with refusals.assert_refused(message, model):
        _fit(model, callback=kr.AdvTrain(threat_model(), warmup=0))


@backends.tensorflow_only("on JAX Keras itself looks at a batch first, and stops")
def test_one_hot_labels_under_a_sparse_loss():
    model = linear_fit.make_model()
    with refusals.assert_refused("the labels are one-hot rows. Use Categorical", model):
        _fit(model, y=np.eye(3)[Y])


def test_a_single_logit_under_a_loss_of_probabilities():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, bias_initializer="ones")])
    model.compile("sgd", "binary_crossentropy")
    model.layers[-1].set_weights([np.full((4, 1), 3.0), np.ones(1)])
    with refusals.assert_refused(r"or leave \[0, 1\].*one output: a sigmoid", model):
        _fit(model, y=Y % 2)


def test_a_threat_model_in_the_place_of_the_labels():
    with pytest.raises(ValueError, match="third argument of an attack is the labels"):
        kr.attacks.FGSM()(linear_fit.make_model(), X, kr.Linf(0.1))


def test_what_is_no_data():
    with pytest.raises(ValueError, match="Expected data as .* Received: Linf"):
        kr.RobustValidation(kr.Linf(0.1))
