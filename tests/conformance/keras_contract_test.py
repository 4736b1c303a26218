"""The facts about Keras that `AdvTrain` and `RobustValidation` rely on.

An upgrade of Keras that changes one of them fails here first, under its name.
"""

import inspect
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

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
            plain = self.model.train_function

            def swapped(iterator):
                seen.append(batch)
                self.model.train_function = plain
                return plain(iterator)

            self.model.train_function = swapped

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
    model.train_step = lambda data: {"mark": keras.ops.convert_to_tensor(7.0)}
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


def test_fit_feeds_a_tensorflow_iterator_and_train_on_batch_a_generator():
    model, seen = linear_fit.make_model(), []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            watch(self.model)

    def watch(model):
        plain = model.train_function
        model.train_function = lambda iterator: (seen.append(iterator), plain(iterator))[1]

    _fit(model, callbacks=[Watch()])
    model.train_on_batch(X[:8], Y[:8])
    assert isinstance(seen[0], tf.data.Iterator)
    assert isinstance(seen[-1], types.GeneratorType)


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
    step = model.train_step
    model.train_step = lambda data: {**step(data), "more": keras.ops.convert_to_tensor(2.0)}
    history = _fit(model).history
    assert set(history) == {"accuracy", "loss", "more"}


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
    found = tf.function(lambda x: hasattr(model(x), "_keras_logits"), autograph=False)
    assert hasattr(model(tf.zeros((2, 4))), "_keras_logits") is kept
    assert bool(found(tf.zeros((2, 4)))) is kept


def test_the_callback_list_is_the_caller_of_set_model():
    callers = []

    class Look(keras.callbacks.Callback):
        def set_model(self, model):
            callers.append(inspect.currentframe().f_back.f_locals.get("self"))

    look = Look()
    _fit(linear_fit.make_model(), callbacks=[look])
    assert isinstance(callers[0], keras.callbacks.CallbackList)
    assert callers[0].callbacks[0] is look


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


def test_compiled_metrics_and_loss_can_be_built_from_symbols():
    model = linear_fit.make_model()
    assert not model._compile_metrics.built
    outputs = model(keras.KerasTensor((None, 4)))
    model._compile_metrics.build(keras.KerasTensor((None,), "int64"), outputs)
    assert model._compile_metrics.built
    assert "accuracy" in model.get_metrics_result() or _fit(model).history["accuracy"]


def test_iterations_count_accumulated_steps_once():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model = linear_fit.make_model(optimizer=optimizer)
    _fit(model, epochs=2)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 3


def test_activity_regularisers_are_those_of_the_latest_pass():
    layer = keras.layers.Dense(3, activity_regularizer=lambda y: keras.ops.sum(y))
    model = keras.Sequential([keras.Input((4,)), layer])
    model(np.ones((1, 4), "float32"))
    model(np.zeros((1, 4), "float32"))
    assert [float(loss) for loss in model.losses] == [0.0]
