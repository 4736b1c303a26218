"""A `fit` that ends before its time leaves a model that is as if it had never been attacked."""

import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import backend
from tests.support import backends
from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data()
TRAIN_HOOKS = [
    "set_model",
    "set_params",
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_epoch_end",
    "on_train_end",
]
TEST_HOOKS = ["on_test_begin", "on_test_batch_begin", "on_test_batch_end", "on_test_end"]


def _model(**arguments):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.2)]
    return linear_fit.make_model(layers, keras.optimizers.Adam(0.05), **arguments)


def _state(model):
    return [np.array(variable) for variable in [*model.variables, *model.optimizer.variables]]


def _restart(model, state):
    """Puts weights, statistics, seeds and the optimizer back to those of a new model."""
    for variable, value in zip([*model.variables, *model.optimizer.variables], state, strict=True):
        variable.assign(value)
    model.reset_metrics()


def _life(model, folder=None):
    """What a plain model does, as arrays; given a folder, it is saved and exported too."""
    seen = []
    history = model.fit(X, Y, batch_size=8, shuffle=False, epochs=2, verbose=0).history
    seen += [np.array(history[name]) for name in sorted(history)]
    for start in range(0, 16, 8):
        rows = slice(start, start + 8)
        logs = model.train_on_batch(X[rows], Y[rows], return_dict=True)
        seen += [np.array(sorted(logs.items())[0][1]), np.array(logs["loss"])]
    seen.append(np.array(model.evaluate(X, Y, verbose=0)))
    seen.append(model.predict(X, verbose=0))
    if folder is None:
        return seen + _state(model)
    model.save(folder / "model.keras")
    seen.append(keras.models.load_model(folder / "model.keras").predict(X, verbose=0))
    model.export(folder / "exported", verbose=False)
    loaded = tf.saved_model.load(str(folder / "exported"))
    seen.append(loaded.serve(tf.constant(X)).numpy())
    return seen + _state(model)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The state of a new model, and the short and the whole life of one without the callback."""
    model = _model()
    model.optimizer.build(model.trainable_variables)
    start = _state(model)
    short = _life(model)
    _restart(model, start)
    return start, short, _life(model, tmp_path_factory.mktemp("plain"))


def _assert_plain(model, plain, folder=None):
    start, short, whole = plain
    expected = short if folder is None else whole
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    _restart(model, start)
    found = _life(model, folder)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def _interrupt(model, error, callbacks, **arguments):
    with pytest.raises(error):
        model.fit(
            X,
            Y,
            batch_size=8,
            epochs=2,
            verbose=0,
            validation_data=(X, Y),
            callbacks=callbacks,
            **arguments,
        )


class _Raiser(keras.callbacks.Callback):
    """Raises in one hook, the second time if it comes again."""

    def __init__(self, hook, error, times):
        super().__init__()
        self.calls = 0

        def fail(*arguments, **keywords):
            self.calls += 1
            if self.calls == times:
                raise error

        setattr(self, hook, fail)


# `guarantees_test` has every hook of training with errors; here are Ctrl-C and validation.
@tiers.parametrize("hook", [*TEST_HOOKS[::-1], *TRAIN_HOOKS])
def test_ctrl_c_in_any_hook(hook, plain):
    model = _model()
    callback = kr.AdvTrain(kr.Linf(0.1), attack="fgsm")
    for place in (0, 1):
        often = hook in ("on_train_batch_begin", "on_train_batch_end", "on_epoch_begin")
        raiser = _Raiser(hook, KeyboardInterrupt(), 2 if often else 1)
        callbacks = [callback]
        callbacks.insert(place, raiser)
        _interrupt(model, KeyboardInterrupt, callbacks)
        assert raiser.calls >= 1
        _assert_plain(model, plain)


def test_a_real_signal_between_two_batches(plain, tmp_path):
    class Signal(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                signal.raise_signal(signal.SIGINT)

    model = _model()
    _interrupt(model, KeyboardInterrupt, [kr.AdvTrain(kr.Linf(0.1), attack="fgsm"), Signal()])
    _assert_plain(model, plain, tmp_path)


class _Failing(kr.objectives.Adversarial):
    """Fails while the second batch is computed, in Python or in an op, not while it is traced."""

    def __init__(self, how):
        self.how = how
        self.count = 0

    def get_config(self):
        return {"how": self.how}

    def loss(self, clean, adversarial):
        value = super().loss(clean, adversarial)
        if self.how == "op":
            step = tf.cast(clean.batch.iteration, tf.int32)
            with tf.control_dependencies([tf.debugging.Assert(step < 1, ["broken"])]):
                return tf.identity(value)
        return value + keras.ops.sum(backend.host_function(self._fail, clean.x, 1))

    def _fail(self, x):
        self.count += 1
        if self.count == 2:
            raise RuntimeError("broken")
        return np.zeros((len(x), 1), "float32")


@pytest.mark.exhaustive
@tiers.parametrize("run_eagerly", [False, True])
@tiers.parametrize(
    "how",
    [pytest.param("op", marks=backends.tensorflow_only("no op of JAX fails")), "python"],
)
def test_a_step_that_fails_in_the_second_batch(how, run_eagerly, plain):
    model = _model(run_eagerly=run_eagerly)
    callback = kr.AdvTrain(kr.Linf(0.1), attack="fgsm", objective=_Failing(how))
    _interrupt(model, (backends.HOST_ERROR, RuntimeError, ValueError), [callback])
    assert int(np.array(model.optimizer.iterations)) == 1
    model.run_eagerly, model.jit_compile = False, _model().jit_compile
    model.make_train_function(force=True)
    _assert_plain(model, plain)


@pytest.mark.exhaustive
def test_data_that_fail_in_the_middle(plain):
    def batches():
        yield X[:8], Y[:8]
        yield X[8:16], Y[8:16]
        raise RuntimeError("disk gone")

    spec = (tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    model = _model()
    callback = kr.AdvTrain(kr.Linf(0.1), attack="fgsm", warmup=0)
    with pytest.raises(Exception, match="disk gone"):
        model.fit(data, verbose=0, shuffle=False, callbacks=[callback])
    _assert_plain(model, plain)


@pytest.mark.exhaustive
def test_it_trains_adversarially_again_after_an_interrupt():
    model = linear_fit.make_model()
    callback = linear_fit.adv_train()
    raiser = _Raiser("on_train_batch_end", KeyboardInterrupt(), 2)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback, raiser])
    model.layers[-1].set_weights([linear_fit.initial_weights()])
    linear_fit.fit(model, callback)
    weights, _ = linear_fit.expected(X, Y)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)
