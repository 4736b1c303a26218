"""Adversarial training takes the data in every form in which Keras takes them."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data()


class _Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        return X[rows], Y[rows]


def _generator():
    while True:
        for start in range(0, len(X), 8):
            yield X[start : start + 8], Y[start : start + 8]


@tiers.parametrize(
    "feed",
    [
        pytest.param(lambda m, c: linear_fit.fit(m, c, epochs=2), id="arrays"),
        pytest.param(
            lambda m, c: linear_fit.fit(
                m, c, keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(Y), epochs=2
            ),
            id="tensors",
        ),
        pytest.param(lambda m, c: linear_fit.fit(m, c, X, Y[:, None], epochs=2), id="label column"),
        pytest.param(
            lambda m, c: linear_fit.fit(
                m, c, linear_fit.dataset(), None, batch_size=None, epochs=2
            ),
            id="ds",
        ),
        pytest.param(
            lambda m, c: linear_fit.fit(m, c, _Batches(), None, batch_size=None, epochs=2),
            id="PyDataset",
        ),
        pytest.param(
            lambda m, c: linear_fit.fit(
                m, c, _generator(), None, batch_size=None, epochs=2, steps_per_epoch=3
            ),
            id="generator",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_two_epochs_equal_numpy_however_the_data_come(feed):
    model = linear_fit.make_model()
    history = feed(model, linear_fit.adv_train())
    weights, logs = linear_fit.expected(X, Y, epochs=2)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)
    for epoch, values in enumerate(logs):
        for name, value in values.items():
            assert history.history[name][epoch] == pytest.approx(value, abs=1e-5), name


def test_one_dict_input_and_output_equal_numpy():
    inputs = keras.Input((linear_fit.NUM_FEATURES,), name="row")
    outputs = keras.layers.Dense(linear_fit.NUM_CLASSES, use_bias=False)(inputs)
    model = keras.Model({"row": inputs}, {"label": outputs})
    model.layers[-1].set_weights([linear_fit.initial_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(linear_fit.LEARNING_RATE), {"label": loss})
    history = linear_fit.fit(model, linear_fit.adv_train(), {"row": X}, {"label": Y})
    weights, logs = linear_fit.expected(X, Y)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)
    assert history.history["adv_accuracy"][0] == pytest.approx(logs[0]["adv_accuracy"], abs=1e-5)


def test_one_hot_labels_equal_class_indices():
    model = linear_fit.make_model(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    linear_fit.fit(model, linear_fit.adv_train(), X, np.eye(linear_fit.NUM_CLASSES)[Y])
    weights, _ = linear_fit.expected(X, Y)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
@tiers.parametrize(("given", "wanted"), [((6, 6), (6, 6, 1)), ((6, 6, 1), (6, 6))])
def test_a_last_axis_of_one_is_added_and_dropped_as_keras_does(given, wanted):
    results = []
    for shape in (given, wanted):
        keras.utils.set_random_seed(0)
        layers = [
            keras.layers.Reshape((6, 6, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.Flatten(),
        ]
        model = keras.Sequential([keras.Input(wanted), *layers, keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        x = np.random.default_rng(0).uniform(size=(8, *shape)).astype("float32")
        callback = kr.AdvTrain(kr.Linf(0.1), attack=kr.attacks.FGSM(), warmup=0)
        model.fit(x, np.arange(8) % 3, shuffle=False, verbose=0, callbacks=[callback])
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.exhaustive
@tiers.parametrize("form", [list, dict, "by name"])
@tiers.parametrize(("given", "wanted"), [((6, 6), (6, 6, 1)), ((6, 6, 1), (6, 6))])
def test_several_inputs_have_a_last_axis_of_one_added_and_dropped(form, given, wanted):
    results = []
    for shape in (given, wanted):
        keras.utils.set_random_seed(0)
        inputs = {name: keras.Input(wanted, name=name) for name in ("b", "a")}
        shared = keras.Sequential([keras.layers.Reshape((6, 6, 1)), keras.layers.Conv2D(2, 3)])
        parts = [keras.layers.Flatten()(shared(one)) for one in inputs.values()]
        outputs = keras.layers.Dense(3)(keras.layers.concatenate(parts))
        model = keras.Model(inputs if form is dict else list(inputs.values()), outputs)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
        x = np.random.default_rng(0).uniform(size=(2, 8, *shape)).astype("float32")
        # The second has its own rank in every case.
        data, ball = {"b": x[0], "a": x[1].reshape(8, *wanted)}, {"b": kr.Linf(0.1)}
        if form is list:
            data, ball = list(data.values()), [kr.Linf(0.1), None]
        callback = kr.AdvTrain(ball, attack=kr.attacks.FGSM(), warmup=0)
        model.fit(data, np.arange(8) % 3, shuffle=False, verbose=0, callbacks=[callback])
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
