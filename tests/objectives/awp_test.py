import re

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust import training
from tests.support import devices
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import small_models
from tests.support import tiers

X, X_ADV, Y = forward_passes.X, forward_passes.X_ADV, forward_passes.Y
RATE = 0.5
GAMMA = 0.3


class Fixed(kr.attacks.Attack):
    """Attack that returns given adversarial examples."""

    def perturb(self, classifier, x, y, threat_model, seed):
        return kr.attacks.AttackResult.unattacked(keras.ops.convert_to_tensor(X_ADV))


def _step(objective, model, iteration=0, **arguments):
    """Takes one step on one batch, and returns the trainer and the result."""
    batch = forward_passes.batch(iteration=iteration, **arguments)
    gradient_step = training.GradientStep(models.Classifier(model), batch)
    return gradient_step, kr.objectives.get(objective).step(gradient_step, Fixed(), batch)


def _network(**arguments):
    model = forward_passes.model(**arguments)
    model.optimizer.learning_rate = RATE
    return model


def _reference():
    """The weights of the reference network."""
    return [*numpy_reference.HIDDEN, *numpy_reference.HEAD]


def _gradients(weights, x=X_ADV, sample_weight=None):
    """The gradients of the mean cross-entropy of the reference network, by hand."""
    w1, b1, w2, b2 = weights
    x = x.astype("float64")
    hidden = np.tanh(x @ w1 + b1)
    wrong = np.exp(forward_passes.log_softmax(hidden @ w2 + b2)) - np.eye(3)[Y]
    wrong = wrong * (np.ones(len(x)) if sample_weight is None else sample_weight)[:, None] / len(x)
    below = wrong @ w2.T * (1.0 - hidden**2)
    return [x.T @ below, below.sum(axis=0), hidden.T @ wrong, wrong.sum(axis=0)]


def _worst(weights, gradients, gamma=GAMMA):
    """`w + v`, with `v_l = gamma * ||w_l|| * g_l / ||g_l||` for kernels."""
    return [
        w + gamma * np.linalg.norm(w) * g / np.linalg.norm(g) if w.ndim > 1 else w
        for w, g in zip(weights, gradients, strict=True)
    ]


def _assert_weights(model, expected):
    for found, wanted in zip(model.trainable_weights, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def _state(model):
    return [np.array(variable) for variable in model.variables]


@tiers.parametrize("sample_weight", [forward_passes.SAMPLE_WEIGHT, None])
@tiers.parametrize("gamma", [0.05, GAMMA])
def test_steps_along_the_gradient_at_the_worst_weights(gamma, sample_weight):
    weights, model = _reference(), _network()
    worst = _worst(weights, _gradients(weights, sample_weight=sample_weight), gamma)
    expected, plain = (
        [
            w - RATE * g
            for w, g in zip(weights, _gradients(at, sample_weight=sample_weight), strict=True)
        ]
        for at in (worst, weights)
    )
    _step(kr.objectives.AWP(gamma), model, sample_weight=sample_weight)
    _assert_weights(model, expected)
    assert np.abs(expected[0] - plain[0]).max() > 1e-3


def test_the_size_of_the_step_is_relative_to_each_kernel():
    weights, model = _reference(), _network()
    seen = []

    class Spy(training.GradientStep):
        def backward(self, loss, found, *, weights=None, **arguments):
            seen.append(weights and [np.array(weight) for weight in weights])
            return super().backward(loss, found, weights=weights, **arguments)

    batch = forward_passes.batch()
    gradient_step = Spy(models.Classifier(model), batch)
    kr.objectives.AWP(GAMMA).step(gradient_step, Fixed(), batch)
    assert seen[0] is None
    slopes = _gradients(weights)
    for found, w, g in zip(seen[1], weights, slopes, strict=True):
        v = found - w
        if w.ndim == 1:
            np.testing.assert_allclose(v, 0.0, atol=1e-6)
            continue
        assert np.linalg.norm(v) == pytest.approx(GAMMA * np.linalg.norm(w), rel=1e-5)
        np.testing.assert_allclose(v / np.linalg.norm(v), g / np.linalg.norm(g), atol=1e-5)


def test_kernels_of_convolutions_are_kernels():
    model = small_models.convolution()
    model.compile(
        keras.optimizers.SGD(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    x, y = small_models.images(model)

    def slopes_at(values):
        for variable, value in zip(model.trainable_weights, values, strict=True):
            variable.assign(value)

        def compute():
            return model.compute_loss(x, y, model(x, training=True))

        loss, found = gradients.of(compute, model.trainable_weights)
        return [np.asarray(gradient).astype("float64") for gradient in found]

    model.layers[3].rate = 0.0
    start = _state(model)
    weights = [np.asarray(weight).astype("float64") for weight in model.trainable_weights]
    assert [w.ndim for w in weights] == [4, 1, 1, 1, 2, 1]
    worst = _worst(weights, slopes_at(weights))
    expected = [w - RATE * g for w, g in zip(weights, slopes_at(worst), strict=True)]
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    batch = forward_passes.batch(x, y)
    gradient_step = training.GradientStep(models.Classifier(model), batch)
    kr.objectives.AWP(GAMMA, "clean").step(gradient_step, Fixed(), batch)
    _assert_weights(model, expected)


@tiers.parametrize("objective", ["mixed", kr.objectives.TRADES(beta=3.0)])
def test_takes_the_ascent_and_the_descent_of_the_objective_within(objective):
    objective = kr.objectives.get(objective)

    class Direct(kr.objectives.TRADES):
        def perturb(self, attack, classifier, batch):
            return attack.perturb(classifier, batch.x, batch.y, batch.threat_model, batch.seed)

    if isinstance(objective, kr.objectives.TRADES):
        objective = Direct(objective.beta)

    def slopes_at(values):
        model = _network()
        model.set_weights(values)

        def compute():
            return objective.loss(*forward_passes.forward_passes(model))

        loss, slopes = gradients.of(compute, model.trainable_weights)
        return [np.asarray(g).astype("float64") for g in slopes]

    weights, model = _reference(), _network()
    worst = _worst(weights, slopes_at(weights))
    expected = [w - RATE * g for w, g in zip(weights, slopes_at(worst), strict=True)]
    _, result = _step(kr.objectives.AWP(GAMMA, objective), model)
    _assert_weights(model, expected)
    loss = objective.loss(*forward_passes.forward_passes(_network()))
    assert float(result.loss) == pytest.approx(float(loss), rel=1e-6)


def _fit(objective, model, x, y, **arguments):
    attack = kr.attacks.PGD(num_steps=2)
    callback = kr.AdvTrain(kr.Linf(0.1), attack=attack, objective=objective, warmup=0)
    return model.fit(
        x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[callback], **arguments
    ).history


@pytest.mark.exhaustive
@pytest.mark.parametrize("within", ["adversarial", "trades"])
def test_gamma_zero_is_the_objective_within_bit_for_bit(within):
    results = []
    for objective in (within, kr.objectives.AWP(0.0, within)):
        model = small_models.convolution()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"], run_eagerly=True)
        x, y = small_models.images(model)
        keras.utils.set_random_seed(5)
        history = _fit(objective, model, x, y)
        results.append((_state(model), history))
    for one, other in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert results[0][1] == results[1][1]


def test_gamma_may_be_a_schedule_of_optimizer_steps():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.0, GAMMA])
    for iteration, gamma in ((0, 0.0), (2, 0.0), (3, GAMMA)):
        scheduled, fixed = _network(), _network()
        _step(kr.objectives.AWP(schedule), scheduled, iteration)
        _step(kr.objectives.AWP(gamma), fixed)
        for one, other in zip(scheduled.get_weights(), fixed.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_logs_are_those_at_the_weights_of_the_model():
    logs = []
    for objective in ("trades", kr.objectives.AWP(GAMMA, "trades")):
        model = _network()
        model.compile(model.optimizer, model.loss, metrics=["accuracy"])
        logs.append(_fit(objective, model, X, Y))
    assert set(logs[0]) == {"loss", "accuracy", "adv_accuracy"}
    for name in logs[0]:
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-6), name


def test_batch_norm_statistics_see_the_pass_at_the_worst_weights_only():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5), norm, keras.layers.Dense(3)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    norm.moving_mean.assign(np.linspace(-1.0, 1.0, 5))
    batch = forward_passes.batch()
    classifier = models.Classifier(model)
    here = training.GradientStep(classifier, batch).backward(
        lambda clean, adversarial: adversarial.loss,
        kr.attacks.AttackResult.unattacked(keras.ops.convert_to_tensor(X_ADV)),
        update_state=False,
    )
    kernel, bias = model.layers[0].get_weights()
    (worst,) = _worst([kernel], [np.asarray(here.gradients[0])])
    seen = X_ADV @ worst + bias
    _step(kr.objectives.AWP(GAMMA), model)
    expected = 0.9 * np.linspace(-1.0, 1.0, 5) + 0.1 * seen.mean(axis=0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * seen.var(axis=0), rtol=1e-4)
    assert np.abs((X_ADV @ kernel + bias).mean(axis=0) - seen.mean(axis=0)).max() > 0.01


@tiers.parametrize("at_call", [1, 2])
@tiers.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()], ids=["error", "stop"])
def test_nothing_is_left_after_an_exception_inside_the_step(at_call, error):
    class Broken(kr.objectives.Adversarial):
        calls = 0

        def loss(self, clean, adversarial):
            loss = super().loss(clean, adversarial)
            self.calls += 1
            if self.calls == at_call:
                raise error
            return loss

    model = small_models.convolution()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    x, y = small_models.images(model)
    before = _state(model)
    with pytest.raises(type(error)):
        _fit(kr.objectives.AWP(GAMMA, Broken()), model, x, y)
    for old, new in zip(before, _state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    # Keras assigns to variables again.
    model.train_on_batch(x, y)
    assert all(np.any(a != b) for a, b in zip(before, _state(model), strict=True))


def test_an_overflow_of_the_loss_scale_leaves_statistics_finite():
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5), norm, keras.layers.Dense(3)]
    )
    inner = keras.optimizers.SGD(RATE)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**127)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    _step(kr.objectives.AWP(GAMMA), model, sample_weight=np.full(4, 1e3, "float32"))
    assert np.all(np.isfinite(norm.moving_mean)) and np.all(np.isfinite(norm.moving_variance))
    # Keras skips the step, and uses a smaller loss scale for the next one.
    np.testing.assert_array_equal(model.layers[-1].get_weights()[0], before[-2])
    assert float(optimizer.dynamic_scale) < 2.0**127


def test_a_kernel_without_a_gradient_stays():
    # Dead units: the gradient of the first kernel is zero, and so is its direction.
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3)]
    )
    model.layers[0].bias.assign(-100.0 * np.ones(5))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    _step(kr.objectives.AWP(GAMMA), model)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())
    assert np.any(model.get_weights()[3] != before[3])


class Twins(keras.Model):
    """Uses one of its two layers."""

    def __init__(self):
        super().__init__()
        self.used = keras.layers.Dense(3, kernel_initializer="ones")
        self.unused = keras.layers.Dense(2)

    def build(self, shape):
        self.used.build(shape)
        self.unused.build(shape)
        self.built = True

    def call(self, x):
        return self.used(x)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
@tiers.parametrize("count", [2, 1])
def test_a_weight_without_use_is_left_alone(count):
    with devices.mirrored(count).scope():
        model = Twins()
        model.build((None, 6))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(RATE), loss)
    before = model.unused.get_weights()
    _fit(kr.objectives.AWP(GAMMA), model, X, Y)
    np.testing.assert_array_equal(model.unused.get_weights()[0], before[0])
    assert np.all(model.used.get_weights()[0] != 1.0)


@pytest.mark.exhaustive
def test_losses_of_several_outputs_are_logged_at_the_weights_of_the_model():
    logs = []
    for objective in ("adversarial", kr.objectives.AWP(GAMMA)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        outputs = [keras.layers.Dense(1, name=name)(inputs) for name in "ab"]
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
        logs.append(_fit(objective, model, X, [Y.astype("float32"), 2.0 * Y]))
    assert logs[0]["a_loss"][0] > 0.0
    for name in ("loss", "a_loss", "b_loss"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-6), name


def test_defaults():
    objective = kr.objectives.AWP()
    assert objective.gamma == 0.01
    assert isinstance(objective.objective, kr.objectives.Adversarial)


@pytest.mark.parametrize("within", [kr.objectives.AWP(), "awp", "free"])
def test_around_an_objective_with_steps_of_its_own_it_is_refused(within):
    name = "Free" if within == "free" else "AWP"
    message = re.escape(
        f"{name} has its own optimizer step, which AWP would not call. Wrap the other way "
        f"round, or use one of the two. Received: objective={name}("
    )
    with pytest.raises(ValueError, match=message):
        kr.objectives.AWP(objective=within)


@pytest.mark.parametrize("gamma", [-0.01, float("nan"), "0.1", None])
def test_wrong_gamma(gamma):
    message = "`gamma` must be a number from 0 to inf, or a LearningRateSchedule. Received: gamma="
    refusals.assert_argument_refused(kr.objectives.AWP, message, gamma=gamma)


def test_a_layer_that_assigns_to_its_weights_is_refused():
    layers = [keras.Input((6,)), keras.layers.SpectralNormalization(keras.layers.Dense(3))]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"assigns to a trainable weight.*kernel"):
        _step("awp", model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
