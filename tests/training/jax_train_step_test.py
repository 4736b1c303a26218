"""The train step of JAX, against float64 NumPy and against what Keras does by itself."""

import warnings

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

X, Y = linear_fit.data()
BATCH_SIZE = linear_fit.BATCH_SIZE
FEATURES, CLASSES = linear_fit.NUM_FEATURES, linear_fit.NUM_CLASSES
MODES = (
    {},
    {"jit_compile": True, "steps_per_execution": 3},
    {"jit_compile": False, "steps_per_execution": 2},
    {"run_eagerly": True},
)
every_mode = tiers.parametrize("mode", MODES, ids=str)


def _sgd(**arguments):
    return keras.optimizers.SGD(linear_fit.LEARNING_RATE, **arguments)


def _expected(accumulated=1, momentum=None, overwrite=0, epochs=2):
    """The weights after FGSM training, with accumulated gradients or averaged weights."""
    x, weights = X.astype("float64"), linear_fit.initial_weights().astype("float64")
    total, average, step = 0.0, weights, 0
    for start in list(range(0, len(x), BATCH_SIZE)) * epochs:
        y = Y[start : start + BATCH_SIZE]
        x_adv = linear_fit.fgsm(x[start : start + BATCH_SIZE], y, weights, linear_fit.EPSILON)
        error = linear_fit.softmax(x_adv @ weights) - np.eye(CLASSES)[y]
        total = total + x_adv.T @ error / len(y)
        updates, step = step // accumulated, step + 1
        if step % accumulated == 0:
            weights, total = weights - linear_fit.LEARNING_RATE * total / accumulated, 0.0
        if momentum is not None:
            share = momentum if updates else 0.0
            average = share * average + (1.0 - share) * weights
            if overwrite and (updates + 1) % overwrite == 0:
                weights = average
    # Keras leaves the averages in the model when `fit` ends.
    return weights if momentum is None else average


@every_mode
@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (lambda: _sgd(), {}),
        (lambda: _sgd(gradient_accumulation_steps=2), {"accumulated": 2}),
        (lambda: _sgd(use_ema=True, ema_momentum=0.7), {"momentum": 0.7}),
        (
            lambda: _sgd(use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=2),
            {"momentum": 0.7, "overwrite": 2},
        ),
        (lambda: keras.optimizers.LossScaleOptimizer(_sgd(), initial_scale=64.0), {}),
    ],
    ids=["plain", "accumulation", "averages", "overwriting averages", "loss scale"],
)
def test_two_epochs_equal_numpy(mode, optimizer, arguments):
    model = linear_fit.make_model(optimizer=optimizer(), **mode)
    linear_fit.fit(model, linear_fit.adv_train(), epochs=2)
    np.testing.assert_allclose(linear_fit.weights(model), _expected(**arguments), atol=1e-5)


class Shift(kr.attacks.Attack):
    """Moves every coordinate up, so that Keras can be given the same examples."""

    def perturb(self, classifier, x, y, threat_model, seed):
        return kr.attacks.AttackResult.unattacked(x + threat_model.radius)


def _busy(optimizer, mode, policy="float32"):
    """A model with all kinds of state: statistics, seeds, a weight that a layer assigns."""
    keras.utils.set_random_seed(6)
    dense = keras.layers.Dense(5, activation="tanh", dtype=policy, kernel_regularizer="l2")
    layers = [
        dense,
        keras.layers.BatchNormalization(dtype=policy),
        keras.layers.Dropout(0.4, seed=3),
        keras.layers.SpectralNormalization(keras.layers.Dense(4)),
        keras.layers.Dense(CLASSES, dtype=policy, activity_regularizer="l2"),
    ]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(), loss, metrics=["accuracy"], **mode)
    return model


def _adam(**arguments):
    return keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.5, **arguments)


def _scaled(initial_scale, **arguments):
    return keras.optimizers.LossScaleOptimizer(
        _adam(**arguments), initial_scale=initial_scale, dynamic_growth_steps=4
    )


def _shift_train():
    return kr.AdvTrain(kr.Linf(0.1, bounds=None), attack=Shift(), warmup=0)


def _state(model, metrics=False):
    """The values of all variables of the model and the optimizer, by their paths."""
    variables = model.variables + model.optimizer.variables
    variables += model.metrics_variables if metrics else []
    return [(variable.path, np.array(variable)) for variable in variables]


def _assert_same(found, expected, **tolerance):
    for (path, value), (_, wanted) in zip(found, expected, strict=True):
        if tolerance:
            np.testing.assert_allclose(value, wanted, err_msg=path, **tolerance)
        else:
            np.testing.assert_array_equal(value, wanted, err_msg=path)


@every_mode
@tiers.parametrize(
    "optimizer",
    [
        lambda: _adam(gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2),
        lambda: _scaled(64.0, use_ema=True, ema_momentum=0.7),
    ],
    ids=["accumulation", "loss scale"],
)
def test_every_variable_is_what_keras_makes_of_the_adversarial_examples(mode, optimizer):
    ours, theirs = _busy(optimizer, mode), _busy(optimizer, mode)
    for model in (ours, theirs):
        model.optimizer.build(model.trainable_variables)
    before = _state(ours)
    arguments = {"batch_size": BATCH_SIZE, "epochs": 2, "shuffle": False, "verbose": 0}
    sample_weight = np.linspace(0.5, 1.5, len(X))
    ours.fit(X, Y, sample_weight=sample_weight, callbacks=[_shift_train()], **arguments)
    theirs.fit(X + np.float32(0.1), Y, sample_weight=sample_weight, **arguments)
    _assert_same(_state(ours), _state(theirs), rtol=1e-4, atol=1e-5)
    pairs = zip(_state(ours), before, strict=True)
    moved = {path.split("/")[-1] for (path, new), (_, old) in pairs if np.any(new != old)}
    statistics = {"moving_mean", "moving_variance", "vector_u"}
    assert moved >= {"kernel", "seed_generator_state", *statistics}


@tiers.parametrize(
    ("mode", "initial_scale"), [(MODES[1], 64.0), *((mode, 2.0**20) for mode in MODES)], ids=str
)
def test_mixed_precision_equals_that_of_keras(mode, initial_scale):
    def optimizer():
        return _scaled(initial_scale)

    ours, theirs = (_busy(optimizer, mode, "mixed_float16") for _ in range(2))
    arguments = {"batch_size": BATCH_SIZE, "epochs": 2, "shuffle": False, "verbose": 0}
    ours.fit(X, Y, callbacks=[_shift_train()], **arguments)
    theirs.fit(X + np.float32(0.1), Y, **arguments)
    _assert_same(_state(ours), _state(theirs), rtol=5e-3, atol=5e-3)
    # A gradient that overflows takes no step and halves the scale, and four that do not double it.
    scale, steps = float(ours.optimizer.dynamic_scale), int(ours.optimizer.iterations)
    assert scale == float(theirs.optimizer.dynamic_scale)
    assert (scale, steps) == (128.0, 6) if initial_scale == 64.0 else scale < 2.0**20 and steps < 6


_BAD = {
    "NaN": ("x", np.nan, "Inputs must be finite.*with 1 NaN"),
    "label too high": ("y", CLASSES, "Labels must be class indices from 0 to 2.*to 3"),
    "label too low": ("y", -2, "Labels must be class indices from 0 to 2.*from -2"),
    "weight": ("sample_weight", np.inf, "Sample weights must be finite.*with 1 NaN"),
}


def _spoiled(kind, place):
    """Arguments of `fit` with one bad value in the example at `place`."""
    name, value, message = _BAD[kind]
    arrays = {"x": X.copy(), "y": Y.copy(), "sample_weight": np.ones(len(X), "float32")}
    arrays[name][place] = value if name != "x" else [0.5, value, 0.5, 0.5]
    return {**arrays, "batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0}, message


@tiers.parametrize(
    ("mode", "kind"), [*zip(MODES, _BAD, strict=True), *((MODES[0], kind) for kind in [*_BAD][1:])]
)
def test_a_refused_first_batch_changes_nothing(mode, kind):
    def optimizer():
        return _scaled(64.0, gradient_accumulation_steps=2, use_ema=True)

    model = _busy(optimizer, mode)
    model.optimizer.build(model.trainable_variables)
    before, trainable = _state(model), [v.trainable for v in model.variables]
    arguments, message = _spoiled(kind, 1)
    with pytest.raises(ValueError, match=message):
        model.fit(**arguments, callbacks=[kr.AdvTrain(attack="fgsm", warmup=0)])
    _assert_same(_state(model), before)
    assert [v.trainable for v in model.variables] == trainable
    assert all(not np.any(variable) for variable in model.metrics_variables)
    assert "finalize_variable_values" not in vars(model.optimizer)


@pytest.mark.exhaustive
@tiers.parametrize(("mode", "kind"), [*zip(MODES, ["NaN", "label too high"] * 2, strict=True)])
def test_a_refused_second_batch_keeps_the_update_of_the_first(mode, kind):
    arguments, message = _spoiled(kind, BATCH_SIZE + 3)
    model, after_one = _busy(_adam, mode), _busy(_adam, mode)
    adv_train = {"attack": kr.attacks.PGD(num_steps=2), "objective": "mixed", "warmup": 0}
    with pytest.raises(ValueError, match=message):
        model.fit(**arguments, callbacks=[kr.AdvTrain(**adv_train)])
    first = {name: arguments[name][:BATCH_SIZE] for name in ("x", "y", "sample_weight")}
    after_one.fit(**first, shuffle=False, verbose=0, callbacks=[kr.AdvTrain(**adv_train)])
    _assert_same(_state(model, metrics=True), _state(after_one, metrics=True), atol=1e-7)
    assert int(model.optimizer.iterations) == 1
    # The buffers that the next training needs were not donated.
    good = {"x": X, "y": Y, "batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0}
    for one in (model, after_one):
        one.fit(**good, callbacks=[kr.AdvTrain(**adv_train)])
        one.fit(**good)
    _assert_same(_state(model), _state(after_one), rtol=1e-4, atol=1e-5)


@tiers.parametrize("run_eagerly", [False, True])
def test_inputs_out_of_bounds_are_refused(run_eagerly):
    bad = X.copy()
    bad[12, 1] = 1.5
    model, after_one = (linear_fit.make_model(run_eagerly=run_eagerly) for _ in range(2))
    linear_fit.fit(after_one, linear_fit.adv_train(), X[:8], Y[:8])
    with pytest.raises(ValueError, match="must lie in the bounds.*to 1.5 under"):
        linear_fit.fit(model, linear_fit.adv_train(), bad, Y)
    np.testing.assert_array_equal(linear_fit.weights(model), linear_fit.weights(after_one))


def test_labels_that_are_no_whole_numbers_are_refused():
    labels = Y.astype("float32")
    labels[2] = 0.5
    with refusals.assert_refused("must be whole numbers.*with 1 labels that are"):
        linear_fit.fit(linear_fit.make_model(), linear_fit.adv_train(), X, labels)


@every_mode
def test_failing_data_keep_the_weights_trained_before(mode):
    def batches():
        for start in (0, 8, 16, 0, 8, 16):
            yield X[start : start + 8], Y[start : start + 8]
        raise OSError("the disk is gone")

    model, same = (linear_fit.make_model(**mode) for _ in range(2))
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(batches(), steps_per_epoch=9, verbose=0, callbacks=[linear_fit.adv_train()])
    # Keras reads ahead by one execution or more.
    steps = int(model.optimizer.iterations)
    assert 0 < steps <= 6
    epochs, rest = divmod(steps, 3)
    if epochs:
        linear_fit.fit(same, linear_fit.adv_train(), epochs=epochs)
    if rest:
        linear_fit.fit(same, linear_fit.adv_train(), X[: 8 * rest], Y[: 8 * rest])
    np.testing.assert_allclose(linear_fit.weights(model), linear_fit.weights(same), atol=1e-6)


def test_a_model_without_trainable_weights_is_refused():
    model = linear_fit.make_model()
    model.trainable = False
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with refusals.assert_refused("no trainable weights", model):
        model.fit(X, Y, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1))])


def test_a_warning_taken_as_an_error_leaves_the_weights():
    layers = [keras.layers.Dense(4, activation="relu", bias_initializer=_far_below)]
    model = linear_fit.make_model(layers)
    before = model.get_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match="Every input gradient"):
            linear_fit.fit(model, linear_fit.adv_train())
    # Where all units are dead nothing is learned, but nothing is lost either.
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def _far_below(shape, dtype=None):
    return keras.ops.full(shape, -100.0, dtype)


def test_the_reason_is_that_of_the_batch_at_hand():
    def batches():
        yield X[:8], Y[:8]
        yield X[:8], Y[:8].astype("float32")
        while True:
            yield X[:8], np.full(8, CLASSES + 2)

    model = linear_fit.make_model()
    with refusals.assert_refused(f"Labels must be class indices.*to {CLASSES + 2}"):
        model.fit(batches(), steps_per_epoch=3, verbose=0, callbacks=[linear_fit.adv_train()])
    assert int(model.optimizer.iterations) == 2
