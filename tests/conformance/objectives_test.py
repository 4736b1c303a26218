"""What every objective does in a `fit`, whichever way the model is trained."""

import functools
import json
import math

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from tests.support import backends
from tests.support import cases
from tests.support import devices
from tests.support import numpy_reference
from tests.support import tiers

_RNG = np.random.default_rng(12)
# Two batches of four, and a short one.
X = _RNG.uniform(0.15, 0.85, size=(11, numpy_reference.FEATURES)).astype("float32")
Y = np.array([2, 0, 1, 2, 1, 0, 0, 2, 1, 1, 0])
WEIGHT = np.array([0.5, 2.0, 0.0, 1.25, 1.0, 0.25, 3.0, 0.0, 1.0, 2.0, 0.5], "float32")
BATCH = 4
FIRST = slice(0, BATCH)
WHOLE = slice(0, 2 * BATCH)
RATE = 0.1

OBJECTIVES = cases.CASES["objectives"]
# Where a mode is slow, one case of a class has to do.
ONE_EACH = list({type(OBJECTIVES[name]): name for name in reversed(OBJECTIVES)}.values())[::-1]

# They draw random numbers of their own, which differ from replica to replica.
RANDOM = {
    "CleanLogitPairing",
    "GaussianNoise",
    "GradAlign",
    "Jacobian",
    "Kurakin",
    "LogitSqueezing",
    "MACER",
    "SmoothAdv",
    "VAT",
}
# Said when several replicas are refused.
ONE_REPLICA = {
    "AdversarialPool": "keeps a state from batch to batch, which several replicas cannot share",
    "Free": "keeps one perturbation from batch to batch, which several replicas cannot share",
}
# An example without weight has an influence by definition: on the example it is paired with.
COUPLED = {"CleanLogitPairing"}
_TEACHER = "The teacher and the model in training must have one classification output each, with"
# Said of a model with one output and a sigmoid.
NO_SIGMOID = {"ARD": _TEACHER, "DefensiveDistillation": _TEACHER, "RSLAD": _TEACHER}
# One logit and two of which one is zero are the same function, but not the same weights.
STEPS_ON_WEIGHTS = {
    "AWP": "the size of its step follows the norm of each kernel",
    "Free": "it steps several times, and the zero logit does not stay zero",
}


def _kind_of_step(name):
    """What decides how a step is built: classes with the same share all code but the loss."""
    parts = ("step", "new_objective_state", "attacked_mask", "persistent_delta", "runs_attack")
    return tuple(getattr(type(OBJECTIVES[name]), part) for part in parts)


def _memory_of_step(name):
    """What a step keeps for the next. The rest of it is operations, which XLA compiles alike."""
    parts = ("new_objective_state", "persistent_delta")
    return tuple(getattr(type(OBJECTIVES[name]), part) for part in parts)


every_objective = tiers.parametrize("name", OBJECTIVES, one_for=cases.class_of)


def in_this_mode(kind=_kind_of_step, but=()):
    """Marks a test of a mode of training, by default for one class of every kind of step.

    Args:
        kind: function of the name of an objective that returns the kind of its step.
        but: classes for which the test says something else, so that they stand for no other.
    """
    return tiers.parametrize(
        "name", ONE_EACH, one_for=lambda name: (kind(name), cases.class_of(name) in but)
    )


def _hidden(name):
    """The activation of the hidden layer: the exact worst case is known for affine models only."""
    return "linear" if cases.class_of(name) == "WorstCaseLinear" else "tanh"


def _model(hidden, units=3, head=None, optimizer=None, loss=None, **arguments):
    """The network of the references with other weights, compiled."""
    layers = [
        keras.layers.Dense(8, activation=hidden),
        keras.layers.Dense(units, activation=head),
    ]
    model = keras.Sequential([keras.Input((numpy_reference.FEATURES,)), *layers])
    kernel, bias = numpy_reference.HEAD
    # Not those of the teacher, who would have nothing to teach.
    layers[0].set_weights([0.8 * weight for weight in numpy_reference.HIDDEN])
    layers[1].set_weights([kernel[:, :units] + 0.1, bias[:units] - 0.2])
    model.compile(
        optimizer or keras.optimizers.SGD(RATE),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **arguments,
    )
    return model


def _callback(name, seed=0):
    objective = OBJECTIVES[name]
    # One step without chance is enough of an attack, but for objectives with an own idea of it.
    attack = None
    if objective.default_attack in ("pgd", "lbfgs"):
        attack = kr.attacks.PGD(num_steps=1, random_start=False, loss="cross_entropy")
    return kr.AdvTrain(kr.Linf(0.1), attack=attack, objective=objective, warmup=0, seed=seed)


class _Notes(keras.callbacks.Callback):
    """Keeps the weights after every batch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())


def _fit(name, model, rows=WHOLE, x=X, y=Y, sample_weight=WEIGHT, seed=0):
    """Trains for one epoch, and returns the weights after every step."""
    notes = _Notes()
    model.fit(
        x[rows],
        y[rows],
        batch_size=BATCH,
        sample_weight=sample_weight[rows],
        shuffle=False,
        verbose=0,
        callbacks=[_callback(name, seed), notes],
    )
    return notes.weights


def _traces(name, monkeypatch):
    """Returns a list that grows with every trace of a step of an objective."""
    objective, traces = OBJECTIVES[name], []
    step = objective.step

    def counting(*arguments):
        traces.append(1)
        return step(*arguments)

    monkeypatch.setattr(objective, "step", counting, raising=False)
    return traces


def _numbers(shape, seed):
    """Numbers in [0, 1) made of integers alone."""
    if all(isinstance(axis, int) for axis in shape):
        size = math.prod(shape)
    else:
        size = keras.ops.prod(keras.ops.convert_to_tensor(shape))
    count = keras.ops.arange(size, dtype="int32")
    mixed = (count + 1) * 1103515245 + seed[0] * 7919 + seed[1] * 104729
    mixed = keras.ops.bitwise_xor(mixed, keras.ops.bitwise_right_shift(mixed, 7))
    bits = keras.ops.bitwise_and(mixed, 0xFFFF)
    return keras.ops.reshape(keras.ops.cast(bits, "float32") / 65536.0, shape)


@pytest.fixture(autouse=True)
def _same_numbers_everywhere(monkeypatch):
    # From one seed, TensorFlow draws other random numbers under XLA than without it.
    def uniform(shape, seed, minval=0.0, maxval=1.0):
        return minval + (maxval - minval) * _numbers(shape, seed)

    monkeypatch.setattr(backend, "uniform", uniform)
    monkeypatch.setattr(backend, "normal", lambda shape, seed: uniform(shape, seed, -1.7, 1.7))


@functools.cache
def _plain(hidden):
    """A model that never saw the callback."""
    return _model(hidden)


@functools.cache
def _trained(name):
    """What every other mode has to reach, the traces that it took, and the model."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        traces, model = _traces(name, monkeypatch), _model(_hidden(name))
        return _fit(name, model, slice(None)), len(traces), model


def _assert_close(found, expected, rtol=1e-4, atol=1e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def _assert_trained(name, found, **tolerance):
    """The weights after the first steps are those of `_trained`."""
    expected = _trained(name)[0]
    for one, other in zip(found, expected[: len(found)], strict=True):
        _assert_close(one, other, **tolerance)


@every_objective
def test_one_trace_serves_short_batches_and_every_step_trains(name):
    weights, traces, _ = _trained(name)
    assert backends.was_traced_once(traces, shapes=2)
    start = _model(_hidden(name)).get_weights()
    assert len(weights) == 3
    for before, after in zip([start, *weights[:2]], weights, strict=True):
        assert all(np.all(np.isfinite(weight)) for weight in after)
        assert any(np.any(one != other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ONE_EACH)
def test_after_it_the_model_is_plain(name):
    weights, _, model = _trained(name)
    assert not hasattr(model.train_function, "plain")
    plain = _plain(_hidden(name))
    for one in (model, plain):
        one.set_weights(weights[-1])
        one.train_on_batch(X[WHOLE], Y[WHOLE], WEIGHT[WHOLE])
    _assert_close(model.get_weights(), plain.get_weights(), rtol=0, atol=0)


@in_this_mode(kind=_memory_of_step)
def test_xla_takes_the_same_steps_in_one_trace(name, monkeypatch):
    _trained(name)
    traces = _traces(name, monkeypatch)
    _assert_trained(name, _fit(name, _model(_hidden(name), jit_compile=True)))
    assert backends.was_traced_once(len(traces), shapes=2)


@every_objective
def test_sample_weights_scale_the_step_and_leave_examples_out(name):
    # Twice the weights are half the learning rate, and what has no weight may be anything.
    x, y = X.copy(), Y.copy()
    if cases.class_of(name) not in COUPLED:
        for row in np.flatnonzero(WEIGHT == 0.0):
            x[row], y[row] = 1.0 - x[row], (y[row] + 1) % 3
    model = _model(_hidden(name), optimizer=keras.optimizers.SGD(RATE / 2), run_eagerly=True)
    found = _fit(name, model, FIRST, x, y, sample_weight=2.0 * WEIGHT)
    _assert_trained(name, found, rtol=1e-5, atol=1e-6)


@in_this_mode(but={*RANDOM, *ONE_REPLICA})
@backends.tensorflow_only("a strategy; `data_parallel_test` is about JAX")
def test_two_devices_reach_the_weights_of_one(name):
    kind = cases.class_of(name)
    if kind in RANDOM:
        ends = [
            _fit(name, _model(_hidden(name), run_eagerly=True), FIRST, seed=seed)[0]
            for seed in (0, 1)
        ]
        assert max(np.abs(one - other).max() for one, other in zip(*ends, strict=True)) > 1e-6
        pytest.skip("each replica draws random numbers of its own")
    with devices.mirrored(2).scope():
        model = _model(_hidden(name))
    if kind in ONE_REPLICA:
        with pytest.raises(ValueError, match=ONE_REPLICA[kind]):
            _fit(name, model)
        return
    _assert_trained(name, _fit(name, model))


@in_this_mode()
def test_accumulation_in_mixed_precision_trains(name):
    inner = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = _model(_hidden(name), optimizer=optimizer, run_eagerly=True)
        start = model.get_weights()
        first, second = _fit(name, model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(inner.iterations) == OBJECTIVES[name].steps_per_batch
    if OBJECTIVES[name].steps_per_batch == 1:
        _assert_close(first, start, rtol=0, atol=0)
    assert all(np.all(np.isfinite(weight)) for weight in second)
    # Half of two steps, but for float16, and for the second gradient, which is that at the start.
    moved, expected = (
        np.concatenate([np.ravel(one - old) for one, old in zip(end, start, strict=True)])
        for end in (second, _trained(name)[0][1])
    )
    cosine = np.sum(moved * expected) / np.linalg.norm(moved) / np.linalg.norm(expected)
    assert cosine > 0.6
    # The hinge of MACER goes on and off; from the first weights that JAX draws it is 1.3.
    if not (backends.IS_JAX and name == "MACER"):
        assert 0.35 < np.linalg.norm(moved) / np.linalg.norm(expected) < 0.65


@in_this_mode()
def test_a_softmax_at_the_end_equals_logits(name):
    loss = "sparse_categorical_crossentropy"
    model = _model(_hidden(name), head="softmax", loss=loss, run_eagerly=True)
    _assert_trained(name, _fit(name, model, FIRST))


@in_this_mode(but={*NO_SIGMOID, *STEPS_ON_WEIGHTS})
def test_a_sigmoid_at_the_end_equals_two_logits(name):
    model = _model(_hidden(name), 1, "sigmoid", loss="binary_crossentropy", run_eagerly=True)
    start = model.get_weights()
    if cases.class_of(name) in NO_SIGMOID:
        with pytest.raises(ValueError, match=NO_SIGMOID[cases.class_of(name)]):
            _fit(name, model, FIRST, y=Y % 2)
        return
    (found,) = _fit(name, model, FIRST, y=Y % 2)
    # The first of the two logits is always zero.
    twin = _model(_hidden(name), 2, run_eagerly=True)
    twin.layers[1].set_weights([np.hstack([0.0 * weight, weight]) for weight in start[2:]])
    (expected,) = _fit(name, twin, FIRST, y=Y % 2)
    assert all(np.any(one != other) for one, other in zip(found, start, strict=True))
    if cases.class_of(name) not in STEPS_ON_WEIGHTS:
        _assert_close(found[:2], expected[:2])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_callback_with_it_survives_its_config(name):
    callback = _callback(name)
    config = json.dumps(keras.saving.serialize_keras_object(callback))
    again = keras.saving.deserialize_keras_object(json.loads(config))
    assert type(again.objective) is type(OBJECTIVES[name])
    assert json.dumps(keras.saving.serialize_keras_object(again)) == config


def test_exceptions_are_not_stale():
    kinds = {cases.class_of(name) for name in OBJECTIVES}
    assert kinds >= {*RANDOM, *ONE_REPLICA, *COUPLED, *NO_SIGMOID, *STEPS_ON_WEIGHTS}
