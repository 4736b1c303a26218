"""The facts about Keras that the callbacks and the examples rely on.

An upgrade of Keras that changes one of them fails here first, under its name.
"""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import backends
from tests.support import linear_fit

X, Y = linear_fit.data()


class _Order(keras.callbacks.Callback):
    """Notes what happens, in order."""

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def set_model(self, model):
        super().set_model(model)
        self.notes.append("set_model")

    def on_train_begin(self, logs=None):
        self.notes.append("on_train_begin")

    def on_train_batch_begin(self, batch, logs=None):
        self.notes.append("on_train_batch_begin")


def _fit(model, **arguments):
    return model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, **arguments)


def _step(logs_of):
    """Returns a train step that gives logs: of the data on TensorFlow, of state and data on JAX."""
    if backends.IS_JAX:
        return lambda state, data: (logs_of(state, data), state)
    return logs_of


def test_fit_sets_the_model_then_makes_the_train_function_then_begins():
    notes = []

    class Model(keras.Sequential):
        def make_train_function(self, force=False):
            notes.append("make_train_function")
            return super().make_train_function(force)

    model = Model([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    _fit(model, callbacks=[_Order(notes)])
    assert notes[:4] == [
        "set_model",
        "make_train_function",
        "on_train_begin",
        "on_train_batch_begin",
    ]


def test_fit_reads_the_train_function_at_every_batch():
    model, seen = linear_fit.make_model(), []

    class Swap(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            # On JAX `self.model` would write back the weights that a step has taken.
            plain = model.train_function

            def swapped(*arguments):
                seen.append(batch)
                model.train_function = plain
                return plain(*arguments)

            model.train_function = swapped

    _fit(model, callbacks=[Swap()])
    assert seen == [0, 1, 2]


def test_a_made_train_function_is_kept_by_the_next_fit():
    model = linear_fit.make_model()
    _fit(model)
    function = model.train_function
    _fit(model)
    assert model.train_function is function


def test_a_step_on_the_instance_is_used_by_make_train_function():
    model = linear_fit.make_model()
    _fit(model)
    model.train_step = _step(lambda *arguments: {"mark": keras.ops.convert_to_tensor(7.0)})
    model.make_train_function(force=True)
    del model.train_step
    assert "train_step" not in vars(model)
    assert _fit(model).history == {"mark": [7.0]}


def test_an_exception_in_fit_skips_on_train_end():
    ended = []
    end = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(True))

    def fail(epoch, logs):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        _fit(
            linear_fit.make_model(),
            callbacks=[end, keras.callbacks.LambdaCallback(on_epoch_end=fail)],
        )
    assert not ended


def test_every_fit_has_a_history_of_its_own():
    model = linear_fit.make_model()
    _fit(model)
    first = model.history
    _fit(model)
    assert model.history is not first


def test_fit_feeds_an_iterator_and_train_on_batch_a_generator():
    model, seen = linear_fit.make_model(), []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            watch(self.model)

    def watch(model):
        plain = model.train_function
        model.train_function = lambda *arguments: (seen.append(arguments[-1]), plain(*arguments))[1]

    _fit(model, callbacks=[Watch()])
    model.train_on_batch(X[:8], Y[:8])
    assert backends.IS_JAX or isinstance(seen[0], tf.data.Iterator)
    assert isinstance(seen[-1], types.GeneratorType)
    assert "train_on_batch" in seen[-1].__qualname__
    assert all("train_on_batch" not in getattr(one, "__qualname__", "") for one in seen[:-1])


@backends.tensorflow_only("on JAX Keras builds everything itself")
def test_the_iterator_of_fit_tells_the_shapes_of_its_batches():
    model, specs = linear_fit.make_model(), []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            plain = self.model.train_function
            self.model.train_function = lambda iterator: (
                specs.append(iterator.element_spec),
                plain(iterator),
            )[1]

    _fit(model, callbacks=[Watch()])
    x, y = specs[0][:2]
    assert tuple(x.shape) == (None, 4)
    assert tuple(y.shape) == (None,)


def test_logs_with_other_keys_than_the_metrics_reach_the_history():
    model = linear_fit.make_model()
    step, more = model.train_step, {"more": keras.ops.convert_to_tensor(2.0)}
    if backends.IS_JAX:

        def with_more(state, data):
            logs, state = step(state, data)
            return {**logs, **more}, state

        model.train_step = with_more
    else:
        model.train_step = lambda data: {**step(data), **more}
    history = _fit(model).history
    assert set(history) == {"accuracy", "loss", "more"}
    assert history["more"] == [2.0]


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ([keras.layers.Dense(3, activation="softmax")], True),
        ([keras.layers.Dense(1, activation="sigmoid")], True),
        ([keras.layers.Dense(3), keras.layers.Softmax()], True),
        ([keras.layers.Dense(3), keras.layers.Activation("softmax", dtype="float32")], True),
        ([keras.layers.Dense(3)], False),
        ([keras.layers.Dense(3, activation="tanh")], False),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_keras_keeps_the_logits_of_a_softmax(layers, kept, nested):
    model = keras.Sequential([keras.Input((4,)), *layers])
    if nested:
        model = keras.Sequential([keras.Input((4,)), model])
    assert hasattr(model(np.zeros((2, 4), "float32")), "_keras_logits") is kept
    if not backends.IS_JAX:
        # Tracers of JAX take no attributes: see `record_logits`.
        found = tf.function(lambda x: hasattr(model(x), "_keras_logits"), autograph=False)
        assert bool(found(tf.zeros((2, 4)))) is kept


def test_one_logs_dict_goes_through_the_callbacks_in_order():
    def add(epoch, logs):
        logs["added"] = 3.0

    seen = []
    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=add),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
    ]
    history = _fit(linear_fit.make_model(), callbacks=callbacks)
    assert seen[0]["added"] == 3.0
    assert history.history["added"] == [3.0]


def test_activity_regularisers_are_those_of_the_latest_pass():
    layer = keras.layers.Dense(3, activity_regularizer=lambda y: keras.ops.sum(y))
    model = keras.Sequential([keras.Input((4,)), layer])
    model(np.ones((1, 4), "float32"))
    model(np.zeros((1, 4), "float32"))
    assert [float(loss) for loss in model.losses] == [0.0]


def test_a_call_on_the_instance_is_what_a_layer_runs_before_masks_and_activity_regularisers():
    layer = keras.layers.Embedding(3, 2, mask_zero=True, activity_regularizer="l2")
    x = np.array([[1, 0]])
    plain = layer(x)
    vars(layer)["call"] = lambda inputs: 2.0 * plain
    doubled = layer(x)
    message = "`AtLayer` reads and moves the output of a layer in this way: see LayerClassifier"
    np.testing.assert_array_equal(doubled, 2.0 * plain, err_msg=message)
    np.testing.assert_array_equal(doubled._keras_mask, [[True, False]], err_msg=message)
    expected = keras.regularizers.L2()(doubled)
    np.testing.assert_allclose(layer.losses, [expected], rtol=1e-6, err_msg=message)
    del vars(layer)["call"]
    np.testing.assert_array_equal(layer(x), plain, err_msg=message)


def test_a_scope_sees_what_is_assigned_and_seeds_have_a_name():
    generator, noted = keras.random.SeedGenerator(1), []

    class Scope(keras.StatelessScope):
        def add_update(self, update):
            noted.append(update[0])
            update[0]._direct_assign(update[1])

        def get_current_value(self, variable):
            return variable._value

    with Scope():
        first = generator.next()
        second = generator.next()
    assert [variable.name for variable in noted] == 2 * ["seed_generator_state"]
    assert int(np.asarray(second)[1]) == int(np.asarray(first)[1]) + 1
    assert int(np.asarray(generator.state)[1]) == int(np.asarray(second)[1]) + 1
