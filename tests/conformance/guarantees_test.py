"""What `AdvTrain` promises about the model it is used on."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import tiers

X, Y = linear_fit.data()
HOOKS = (
    "on_train_batch_end",
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_epoch_end",
    "on_train_end",
)


def _plain_fit(model, **arguments):
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, **arguments)
    return model.layers[-1].get_weights()[0]


def _restart(model):
    """Puts the initial weights back, and forgets the optimizer steps."""
    model.layers[-1].set_weights([linear_fit.initial_weights()])
    model.optimizer.iterations.assign(0)


@pytest.fixture(scope="module")
def plain_weights():
    return _plain_fit(linear_fit.make_model())


def _assert_plain(model, plain_weights):
    """Everything that trains behaves as on a model that never saw the callback."""
    _restart(model)
    np.testing.assert_array_equal(_plain_fit(model), plain_weights)
    _restart(model)
    for start in range(0, len(X), 8):
        model.train_on_batch(X[start : start + 8], Y[start : start + 8])
    np.testing.assert_array_equal(model.layers[-1].get_weights()[0], plain_weights)


def _raiser(hook, error):
    def fail(*args, **kwargs):
        raise error

    return keras.callbacks.LambdaCallback(**{hook: fail})


def test_the_model_is_as_before_after_fit(plain_weights):
    model = linear_fit.make_model()
    _plain_fit(model)
    before, function = dict(vars(model)), model.train_function
    _plain_fit(model, callbacks=[linear_fit.adv_train()])
    assert model.train_function is function
    assert set(vars(model)) == set(before)
    changed = {name for name, value in before.items() if vars(model)[name] is not value}
    assert changed <= {"history", "_jit_compile", "stop_training"}
    _assert_plain(model, plain_weights)


@tiers.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
@tiers.parametrize("hook", HOOKS)
@tiers.parametrize("place", [1, 0], ids=["after", "before"])
def test_the_model_is_plain_after_an_exception_in_any_hook(hook, place, error, plain_weights):
    if hook == "on_train_batch_begin" or hook == "on_train_batch_end":
        callback = keras.callbacks.Callback()
        setattr(callback, hook, _raiser("on_train_begin", error).on_train_begin)
    else:
        callback = _raiser(hook, error)
    callbacks = [linear_fit.adv_train()]
    callbacks.insert(place, callback)
    model = linear_fit.make_model()
    with pytest.raises(type(error)):
        _plain_fit(model, callbacks=callbacks)
    _assert_plain(model, plain_weights)


def test_train_on_batch_right_after_an_exception_is_plain(plain_weights):
    # The batch was announced, but never came: what is armed must not leak into the next call.
    callback = keras.callbacks.Callback()
    callback.on_train_batch_begin = _raiser("on_train_begin", RuntimeError("no")).on_train_begin
    model = linear_fit.make_model()
    with pytest.raises(RuntimeError):
        _plain_fit(model, callbacks=[linear_fit.adv_train(), callback])
    _restart(model)
    for start in range(0, len(X), 8):
        model.train_on_batch(X[start : start + 8], Y[start : start + 8])
    np.testing.assert_array_equal(model.layers[-1].get_weights()[0], plain_weights)


@tiers.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_the_model_is_plain_after_an_exception_inside_the_step(error, plain_weights):
    class Broken(kr.objectives.Objective):
        def loss(self, clean, adversarial):
            raise error

    model = linear_fit.make_model()
    with pytest.raises(type(error)):
        _plain_fit(model, callbacks=[linear_fit.adv_train(objective=Broken())])
    _assert_plain(model, plain_weights)


def test_two_fits_in_a_row_train_adversarially_both():
    model, callback = linear_fit.make_model(), linear_fit.adv_train()
    for _ in range(2):
        _plain_fit(model, callbacks=[callback])
    weights, _ = linear_fit.expected(X, Y, epochs=2)
    np.testing.assert_allclose(model.layers[-1].get_weights()[0], weights, atol=1e-5)


def test_save_and_evaluate_are_plain_after_fit(tmp_path):
    model = linear_fit.make_model()
    _plain_fit(model, callbacks=[linear_fit.adv_train()])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    logits = X @ model.layers[-1].get_weights()[0]
    assert logs["accuracy"] == pytest.approx(np.mean(np.argmax(logits, 1) == Y), abs=1e-6)


def test_a_resumed_training_reaches_the_same_weights(tmp_path):
    def run(callbacks, model):
        attack = kr.attacks.PGD(num_steps=2)
        callbacks = [kr.AdvTrain(kr.Linf(0.1), attack=attack, warmup=8), *callbacks]
        _plain_fit(model, epochs=4, callbacks=callbacks)

    # No Dropout: Keras's own checkpoints do not hold the state of its seed.
    def make_model():
        layers = [keras.layers.BatchNormalization()]
        return linear_fit.make_model(layers, optimizer=keras.optimizers.Adam(0.05))

    whole, killed, resumed = make_model(), make_model(), make_model()
    run([], whole)
    backup = str(tmp_path / "backup")

    def kill(epoch, logs):
        if epoch == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        killer = keras.callbacks.LambdaCallback(on_epoch_begin=kill)
        run([keras.callbacks.BackupAndRestore(backup), killer], killed)
    run([keras.callbacks.BackupAndRestore(backup)], resumed)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_attack_sees_inference_mode_and_the_outer_step_one_training_pass():
    modes = []

    class Spy(keras.layers.Layer):
        def call(self, x, training=None):
            modes.append(bool(training))
            return x

    model = linear_fit.make_model([Spy()], run_eagerly=True)
    modes.clear()
    attack = kr.attacks.PGD(num_steps=3)
    _plain_fit(model, callbacks=[linear_fit.adv_train(attack=attack)])
    # For each of three batches, of the adversarial examples, and of the clean ones for the logs.
    assert modes.count(True) == 2 * 3
    assert modes.count(False) >= 3 * 3


def test_batch_statistics_see_the_adversarial_batch_once():
    model = linear_fit.make_model(
        [keras.layers.BatchNormalization(momentum=0.9, center=False, scale=False)]
    )
    model.optimizer.learning_rate = 0.0
    x, y = X[:8], Y[:8]
    model.fit(x, y, verbose=0, shuffle=False, callbacks=[linear_fit.adv_train()])
    # The attack runs in inference mode: mean 0 and variance 1, but for Keras's 1e-3.
    weights = linear_fit.initial_weights().astype("float64")
    scaled = x / np.sqrt(1.0 + 1e-3)
    gradient = (linear_fit.softmax(scaled @ weights) - np.eye(3)[y]) @ weights.T
    x_adv = np.clip(x + linear_fit.EPSILON * np.sign(gradient), 0.0, 1.0)
    normalization = model.layers[0]
    np.testing.assert_allclose(normalization.moving_mean, 0.1 * x_adv.mean(0), atol=1e-6)
    np.testing.assert_allclose(normalization.moving_variance, 0.9 + 0.1 * x_adv.var(0), atol=1e-6)


def test_accuracies_of_a_model_with_cold_statistics_are_those_of_training_mode():
    # The averages say that nothing need be shifted, at which every example would be of one class.
    shift = keras.layers.Rescaling(1.0, offset=[9.0, 0.0, 0.0, 0.0])
    norm = keras.layers.BatchNormalization(center=False, scale=False, epsilon=1e-6)
    model = linear_fit.make_model([shift, norm])
    model.optimizer.learning_rate = 0.0
    history = model.fit(X, Y, verbose=0, batch_size=len(X), callbacks=[linear_fit.adv_train()])
    weights = linear_fit.initial_weights().astype("float64")
    # The attack runs in inference mode, where all are of one class.
    gradient = (linear_fit.softmax((X + [9, 0, 0, 0]) @ weights) - np.eye(3)[Y]) @ weights.T
    x_adv = np.clip(X + linear_fit.EPSILON * np.sign(gradient), 0.0, 1.0)
    for name, x in (("accuracy", X), ("adv_accuracy", x_adv)):
        logits = (x - x.mean(0)) / x.std(0) @ weights
        expected = np.mean(np.argmax(logits, axis=-1) == Y)
        assert history.history[name] == [pytest.approx(expected)], name
    assert history.history["accuracy"] != [np.mean(np.argmax((X + [9, 0, 0, 0]) @ weights, 1) == Y)]


@pytest.mark.exhaustive
def test_a_deep_model_with_batch_norm_from_scratch_is_not_said_to_learn_nothing():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 3520)
    x = 0.6 * rng.uniform(size=(10, 36))[y] + 0.4 * rng.uniform(size=(3520, 36))
    histories = []
    for callbacks in ([], [linear_fit.adv_train(epsilon=0.0)]):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((36,)), keras.layers.Rescaling(1.0, offset=5.0)])
        for _ in range(6):
            model.add(keras.layers.Dense(24, use_bias=False))
            model.add(keras.layers.BatchNormalization(momentum=0.999))
            model.add(keras.layers.ReLU())
        model.add(keras.layers.Dense(10))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        # Warnings are errors here.
        history = model.fit(x, y, epochs=2, shuffle=False, verbose=0, callbacks=callbacks).history
        histories.append(history)
        assert model.evaluate(x, y, verbose=0)[1] < 0.2
    plain, robust = histories
    assert plain["accuracy"][1] > 0.7
    np.testing.assert_allclose(robust["accuracy"], plain["accuracy"], atol=0.005)
    assert robust["adv_accuracy"] == robust["accuracy"]


def _assert_traces(traces, tensorflow, jax):
    """Asserts that the step was traced for the given shapes only, however long it was trained.

    JAX traces it twice for one shape: to find its variables, and to compile it.
    """
    if backends.IS_JAX:
        counts = collections.Counter(traces)
        assert set(counts) == set(jax) and max(counts.values()) <= 2
    else:
        assert traces == tensorflow


@tiers.parametrize("epsilon", [0.1, "schedule"])
def test_one_trace_serves_changing_epsilon_and_short_batches(epsilon):
    traces = []

    class Counting(kr.objectives.Adversarial):
        def loss(self, clean, adversarial):
            traces.append(tuple(clean.x.shape))
            return super().loss(clean, adversarial)

    if epsilon == "schedule":
        epsilon = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.1)
    model = linear_fit.make_model()
    callback = kr.AdvTrain(kr.Linf(epsilon), objective=Counting(), warmup=5)
    _plain_fit(model, epochs=4, callbacks=[callback])
    _assert_traces(traces, tensorflow=[(None, 4)], jax=[(8, 4), (6, 4)])


def test_one_trace_for_each_signature():
    traces = []

    class Counting(kr.objectives.Adversarial):
        def loss(self, clean, adversarial):
            traces.append(tuple(clean.x.shape))
            return super().loss(clean, adversarial)

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8, drop_remainder=True)
    model = linear_fit.make_model()
    callback = linear_fit.adv_train(objective=Counting())
    model.fit(data, epochs=3, verbose=0, shuffle=False, callbacks=[callback])
    _assert_traces(traces, tensorflow=[(8, 4)], jax=[(8, 4)])


@tiers.parametrize("attack_dtype", [None, "bfloat16"])
@tiers.parametrize(
    "mode",
    [
        pytest.param(lambda: {"steps_per_execution": 3}, id="steps_per_execution"),
        pytest.param(lambda: {"jit_compile": True}, id="XLA"),
        pytest.param(
            lambda: {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
            id="accumulation",
        ),
    ],
)
def test_every_mode_traces_the_attack_once(mode, attack_dtype):
    traces = []

    class Counting(kr.attacks.FGSM):
        def perturb(self, classifier, x, *arguments):
            traces.append(tuple(x.shape))
            return super().perturb(classifier, x, *arguments)

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4, drop_remainder=True).repeat()
    model = linear_fit.make_model(**mode())
    callback = linear_fit.adv_train(attack=Counting(), attack_dtype=attack_dtype)
    model.fit(data, epochs=3, steps_per_epoch=6, verbose=0, callbacks=[callback])
    _assert_traces(traces, tensorflow=[(4, 4)], jax=[(4, 4)])


def _mirrored(count):
    devices = [f"CPU:{index}" for index in range(count)]
    return tf.distribute.MirroredStrategy(devices)


@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
@tiers.parametrize("objective", ["adversarial", "mixed", "logit_pairing", "trades"])
@pytest.mark.filterwarnings("ignore:Every input gradient", "ignore:`shuffle=True` was passed")
def test_two_devices_reach_the_weights_of_one(objective):
    results = []
    for count in (1, 2):
        with _mirrored(count).scope():
            model = linear_fit.make_model()
            regularised = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
            regularised.build((None, 4))
        attack = kr.attacks.PGD(num_steps=2, random_start=False, loss="cross_entropy")
        callback = linear_fit.adv_train(objective=objective, attack=attack)
        history = model.fit(
            X[:20], Y[:20], batch_size=8, shuffle=False, epochs=2, verbose=0, callbacks=[callback]
        )
        results.append((model.get_weights()[0], history.history["loss"][-1]))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)


@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
def test_two_devices_draw_different_random_starts():
    seeds = []

    class Spy(kr.objectives.Adversarial):
        def perturb(self, attack, classifier, batch):
            backends.observe(lambda s: seeds.append(tuple(s)), batch.seed)
            return super().perturb(attack, classifier, batch)

    with _mirrored(2).scope():
        model = linear_fit.make_model()
    callback = linear_fit.adv_train(objective=Spy())
    model.fit(X[:16], Y[:16], batch_size=8, verbose=0, callbacks=[callback])
    assert len(seeds) == 4
    assert len(set(seeds)) == 4
