import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import training
from tests.support import backends
from tests.support import linear_fit
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

X, Y = linear_fit.data()  # 22 examples: batches of 8, 8 and 6.
SAMPLE_WEIGHT = np.random.default_rng(2).uniform(0.2, 2.0, size=len(X)).astype("float32")
EPSILON = {"Linf": 0.1, "L2": 0.15, "L1": 0.25}
BOX = (0.0, 1.0)


class Refuses(kr.attacks.PGD):
    def perturb(self, *request):
        raise AssertionError("An attack has run.")


def free(norm="Linf", num_replays=2, **arguments):
    """The callback, without a warm-up unless it is asked for."""
    ball = getattr(kr.threat_models, norm)(EPSILON[norm])
    arguments = {"attack": Refuses(), "warmup": 0, **arguments}
    return kr.AdvTrain(ball, objective=kr.objectives.Free(num_replays), **arguments)


def fit(callback, model=None, **arguments):
    """Returns the weights and logs after training in the order of the data."""
    model = model or linear_fit.make_model()
    history = linear_fit.fit(model, callback, X, Y, **arguments).history
    return linear_fit.weights(model), history, model


class Paper:
    """The algorithm for softmax regression with SGD, in float64."""

    def __init__(self, norm="Linf", m=2, sample_weight=None, rate=None, radius=None, decay=0.0):
        self.norm, self.m, self.decay = norm, m, decay
        self.rate = rate or (lambda step: linear_fit.LEARNING_RATE)
        self.radius = radius or (lambda step: EPSILON[norm])
        self.sample_weight = np.ones(len(X)) if sample_weight is None else sample_weight
        self.weights = linear_fit.initial_weights().astype("float64")
        self.step = 0

    def fit(self, epochs=1):
        delta = np.zeros((linear_fit.BATCH_SIZE, X.shape[1]))
        logs = []
        for _ in range(epochs):
            sums = np.zeros(3)
            for start in range(0, len(X), linear_fit.BATCH_SIZE):
                sums += self.batch(slice(start, start + linear_fit.BATCH_SIZE), delta)
            names = ("loss", "accuracy", "adv_accuracy")
            logs.append(dict(zip(names, sums / len(X), strict=True)))
        return logs

    def batch(self, rows, delta):
        x, y, weight = X[rows].astype("float64"), Y[rows], self.sample_weight[rows]
        count, hot = len(x), np.eye(3)[Y[rows]]
        accuracy = np.sum(weight * (np.argmax(x @ self.weights, -1) == y))
        epsilon = self.radius(self.step)
        for _ in range(self.m):
            own = delta[:count]
            x_adv = numpy_reference.project(x + own, x, self.norm, epsilon, BOX)
            p = linear_fit.softmax(x_adv @ self.weights)
            loss = -np.sum(weight * np.log(p[np.arange(count), y]))
            loss += count * self.decay * np.sum(self.weights**2)
            hits = np.sum(np.argmax(p, -1) == y)
            error = (p - hot) * weight[:, None] / count
            upward = error @ self.weights.T
            slope = x_adv.T @ error + 2.0 * self.decay * self.weights
            self.weights = self.weights - self.rate(self.step) * slope
            moved = numpy_reference.step(own, upward, self.norm, epsilon, None)
            delta[:count] = numpy_reference.project(moved, 0.0 * own, self.norm, epsilon, None)
            self.step += 1
        return np.array([loss, accuracy, hits])


@tiers.parametrize("norm", EPSILON)
@tiers.parametrize("m", [2, 1, 3])
def test_is_the_algorithm_of_the_paper(norm, m):
    weights, history, model = fit(free(norm, m), epochs=2)
    paper = Paper(norm, m)
    logs = paper.fit(epochs=2)
    np.testing.assert_allclose(weights, paper.weights, atol=1e-5)
    for name in ("loss", "accuracy", "adv_accuracy"):
        assert history[name] == pytest.approx([log[name] for log in logs], abs=1e-5), name
    assert int(model.optimizer.iterations) == 2 * 3 * m


def test_delta_goes_from_batch_to_batch():
    # The tests above mean something only if resetting `delta` would change the weights.
    paper, forgetful = Paper(), Paper()
    paper.fit()
    for start in (0, 8, 16):
        forgetful.batch(slice(start, start + 8), np.zeros((8, X.shape[1])))
    assert np.abs(paper.weights - forgetful.weights).max() > 1e-3


@pytest.mark.exhaustive
def test_xla_gives_the_same():
    weights, *_ = fit(free("L2"), linear_fit.make_model(jit_compile=True), epochs=2)
    paper = Paper("L2")
    paper.fit(epochs=2)
    np.testing.assert_allclose(weights, paper.weights, atol=1e-5)


def test_sample_weights():
    weights, history, _ = fit(free("L2"), sample_weight=SAMPLE_WEIGHT)
    paper = Paper("L2", sample_weight=SAMPLE_WEIGHT)
    logs = paper.fit()
    np.testing.assert_allclose(weights, paper.weights, atol=1e-5)
    assert history["loss"][0] == pytest.approx(logs[0]["loss"], rel=1e-5)


@pytest.mark.exhaustive
def test_regularisers_count_once_a_replay():
    model = linear_fit.make_model()
    model.layers[-1].kernel_regularizer = keras.regularizers.L2(0.1)
    model.layers[-1].kernel.regularizer = model.layers[-1].kernel_regularizer
    weights, history, _ = fit(free(), model)
    paper = Paper(decay=0.1)
    logs = paper.fit()
    np.testing.assert_allclose(weights, paper.weights, atol=1e-5)
    assert history["loss"][0] == pytest.approx(logs[0]["loss"], rel=1e-5)


@pytest.mark.exhaustive
def test_learning_rate_schedules_count_replays():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 4, 0.3)
    model = linear_fit.make_model(optimizer=keras.optimizers.SGD(schedule))
    paper = Paper(rate=lambda step: 0.5 * 0.3 ** (step / 4))
    paper.fit()
    np.testing.assert_allclose(fit(free(), model)[0], paper.weights, atol=1e-5)


@tiers.parametrize(
    ("arguments", "start", "steps"),
    [
        # Two epochs of three batches, each two steps.
        ({"warmup": "50%", "epochs": 2}, 0, 6),
        ({"warmup": 6, "epochs": 2}, 0, 6),
        # Of three epochs the first takes one step a batch: 3 + 2 * 6 steps.
        ({"warmup": "40%", "clean_epochs": 1, "epochs": 3}, 3, 6),
        ({"warmup": "40%", "clean_epochs": 5, "epochs": 1}, 15, 1),
    ],
)
def test_the_warm_up_counts_replays(arguments, start, steps):
    model, callback = linear_fit.make_model(), free(**_without(arguments, "epochs"))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(callback._step.epsilon_warmup)
    )
    model.fit(
        X, Y, batch_size=8, epochs=arguments["epochs"], verbose=0, callbacks=[callback, watch]
    )
    assert set(seen) == {(start, steps)}


def _without(arguments, name):
    return {key: value for key, value in arguments.items() if key != name}


@pytest.mark.exhaustive
def test_the_radius_is_that_of_the_first_replay():
    paper = Paper(radius=lambda step: EPSILON["Linf"] * min((step + 1) / 9, 1.0))
    paper.fit(epochs=2)
    np.testing.assert_allclose(fit(free(warmup=9), epochs=2)[0], paper.weights, atol=1e-5)


@pytest.mark.exhaustive
def test_delta_starts_at_zero_with_every_fit():
    callback, paper = free(), Paper()
    _, _, model = fit(callback)
    fit(callback, model)
    paper.fit()
    paper.fit()
    np.testing.assert_allclose(linear_fit.weights(model), paper.weights, atol=1e-5)


@backends.tensorflow_only("JAX traces gradients also op by op, and the layer looks at values")
def test_batch_norm_sees_the_adversarial_pass_of_every_replay():
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x, training=None):
            if training:
                seen.append(np.asarray(x))
            return x

    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = linear_fit.make_model([Spy(), norm], run_eagerly=True)
    seen.clear()
    model.fit(X[:8], Y[:8], verbose=0, shuffle=False, callbacks=[free(num_replays=3)])
    # The pass for the clean metrics follows the first replay, and its statistics are discarded.
    np.testing.assert_array_equal(seen.pop(1), X[:8])
    assert len(seen) == 3
    np.testing.assert_array_equal(seen[0], X[:8])
    assert np.abs(seen[2] - seen[1]).max() > 0.05
    expected = np.zeros(X.shape[1])
    for x_adv in seen:
        expected = 0.9 * expected + 0.1 * x_adv.mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


@pytest.mark.exhaustive
def test_an_epsilon_per_feature():
    epsilon = np.array([0.02, 0.05, 0.1, 0.2], "float32")
    ball = kr.Linf(epsilon)
    callback = kr.AdvTrain(ball, objective=kr.objectives.Free(2), warmup=0)
    paper = Paper(radius=lambda step: epsilon)
    paper.fit()
    np.testing.assert_allclose(fit(callback)[0], paper.weights, atol=1e-5)


class Recorded:
    """A `training.GradientStep` with given input gradients."""

    def __init__(self, gradients):
        self.gradients = [np.asarray(gradient, "float32") for gradient in gradients]
        self.x_adv = []

    def backward(self, loss, found):
        self.x_adv.append(np.asarray(found.x_adv))
        gradient = keras.ops.convert_to_tensor(self.gradients[len(self.x_adv) - 1])
        forward_pass = training.ForwardPass(None, None, found)
        return training.StepResult(len(self.x_adv), [], gradient, None, forward_pass)

    def apply(self, result):
        return result


def _recorded(gradients, delta, ball):
    x = keras.ops.convert_to_tensor([[0.0, 0.5], [1.0, 0.3]])
    gradient_step, zero = Recorded(gradients), keras.ops.convert_to_tensor(0)
    delta = keras.ops.convert_to_tensor(delta, "float32")
    batch = training.Batch(x, None, None, ball, zero, None, delta)
    return kr.objectives.Free(len(gradients)).step(gradient_step, None, batch), gradient_step


def test_the_box_of_one_image_does_not_shrink_delta():
    gradients = [[[-1.0, 2.0], [3.0, -1.0]], [[-5.0, -2.0], [4.0, 0.0]]]
    result, gradient_step = _recorded(gradients, [[0.0, 0.05], [-0.1, 0.1]], kr.Linf(0.1))
    np.testing.assert_allclose(gradient_step.x_adv[0], [[0.0, 0.55], [0.9, 0.4]], atol=1e-6)
    np.testing.assert_allclose(gradient_step.x_adv[1], [[0.0, 0.6], [1.0, 0.3]], atol=1e-6)
    np.testing.assert_allclose(result.delta, [[-0.1, 0.0], [0.1, 0.0]], atol=1e-6)
    assert result.loss == 2


@pytest.mark.parametrize("norm", EPSILON)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_no_number_does_not_stay_in_delta(norm, bad):
    ball = getattr(kr.threat_models, norm)(0.1)
    result, _ = _recorded([[[bad, 1.0], [bad, bad]]], np.zeros((2, 2)), ball)
    np.testing.assert_allclose(result.delta, [[0.0, 0.1], [0.0, 0.0]], atol=1e-6)


def test_zero_gradient_means_zero_at_every_replay():
    gradients = [[[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]
    result, _ = _recorded(gradients, np.zeros((2, 2)), kr.Linf(0.1))
    assert np.asarray(result.zero_gradient).tolist() == [False, True]
    # The last replay saw another one, and keeps it.
    assert np.asarray(result.adversarial.found.zero_gradient).tolist() == [False, False]


def test_zero_gradients_cause_a_warning():
    model = linear_fit.make_model(optimizer=keras.optimizers.SGD(0.0))
    model.layers[-1].kernel.assign(0.0 * model.layers[-1].kernel)
    message = "Every input gradient of the first batch is zero"
    with refusals.assert_warned_once(message):
        fit(free(), model)


@backends.tensorflow_only("replicas are TensorFlow's")
def test_several_replicas_are_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = linear_fit.make_model()
    with refusals.assert_refused("Free keeps one perturbation from batch to batch", model):
        fit(free(), model)


@backends.tensorflow_only("shapes are always known elsewhere")
def test_examples_of_several_shapes_are_refused():
    layers = [keras.Input((None, 4)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    lengths = (3, 2)
    data = tf.data.Dataset.from_generator(
        lambda: ((np.zeros((4, length, 4), "float32"), np.zeros(4, int)) for length in lengths),
        output_signature=(tf.TensorSpec((4, None, 4)), tf.TensorSpec((4,), "int64")),
    )
    message = (
        r"all examples must have the same shape. Pad .*Received: examples of shape \(None, 4\)"
    )
    with refusals.assert_refused(message, model):
        model.fit(data, verbose=0, callbacks=[free()])


@pytest.mark.exhaustive
def test_a_regression_can_be_trained():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    logs = model.fit(X, X[:, :1], verbose=0, callbacks=[free(num_replays=3)]).history
    assert set(logs) == {"adv_loss", "loss"}
    assert int(model.optimizer.iterations) == 3


def test_wrappers_refuse_an_objective_with_its_own_step():
    with pytest.raises(ValueError, match="Free has its own optimizer step"):
        kr.objectives.AWP(objective="free")


@pytest.mark.parametrize("num_replays", [0, -1, 2.0, "8", None])
def test_wrong_number_of_replays(num_replays):
    refusals.assert_argument_refused(
        kr.objectives.Free,
        "`num_replays` must be an int >= 1. Received: num_replays=",
        num_replays=num_replays,
    )
