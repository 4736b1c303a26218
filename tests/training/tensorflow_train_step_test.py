import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from keras_robust import training
from tests.support import forward_passes
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

X = forward_passes.X
Y = forward_passes.Y
BALL = kr.threat_models.Linf(0.1)
SEED = 17


class Shift(kr.attacks.Attack):
    """Moves every coordinate up by the radius."""

    def perturb(self, classifier, x, y, threat_model, seed):
        return kr.attacks.AttackResult.unattacked(x + threat_model.radius)


class Noting(Shift):
    """Records its seeds and radii; for steps that are not traced."""

    def __init__(self):
        self.seeds, self.radii = [], []

    def perturb(self, classifier, x, y, threat_model, seed):
        self.seeds.append(tuple(np.asarray(seed)))
        self.radii.append(float(threat_model.radius))
        return super().perturb(classifier, x, y, threat_model, seed)


def _linear(loss=None, tail=(), **arguments):
    """A linear model, and its weights in float64."""
    head = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((6,)), head, *tail])
    model.compile(
        keras.optimizers.SGD(0.5),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **arguments,
    )
    return model, [weight.numpy().astype("float64") for weight in head.weights]


def _step(model, attack="pgd", objective="adversarial", threat_model=BALL, epsilon_warmup=(0, 0)):
    attack, objective = kr.attacks.get(attack), kr.objectives.get(objective)
    return training.TrainStep(
        model, attack, objective, threat_model, epsilon_warmup=epsilon_warmup, seed=SEED
    )


def _batch(x=X, y=Y, weight=None):
    parts = (x, y) if weight is None else (x, y, weight)
    return tuple(keras.tree.map_structure(tf.convert_to_tensor, part) for part in parts)


def _softmax_regression(kernel, bias, x, weight):
    """The weights after one step of gradient descent with rate 0.5, the logits and the loss."""
    x = np.asarray(x, "float64")
    z = x @ kernel + bias
    wrong = (np.exp(forward_passes.log_softmax(z)) - np.eye(3)[Y]) * weight[:, None] / len(x)
    loss = np.mean(forward_passes.cross_entropy(z) * weight)
    return kernel - 0.5 * x.T @ wrong, bias - 0.5 * wrong.sum(axis=0), z, loss


@tiers.parametrize("weight", [forward_passes.SAMPLE_WEIGHT, None])
@tiers.parametrize("compiled", [False, True])
def test_is_one_optimizer_step_on_the_adversarial_examples(weight, compiled):
    model, (kernel, bias) = _linear()
    expected = _softmax_regression(kernel, bias, X + 0.1, np.ones(4) if weight is None else weight)
    step = _step(model, Shift())
    run = tf.function(step) if compiled else step
    logs = {key: float(value) for key, value in run(_batch(weight=weight)).items()}
    for found, wanted in zip(model.get_weights(), expected[:2], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert int(model.optimizer.iterations) == 1
    assert logs["loss"] == pytest.approx(expected[3], rel=1e-5)


def test_logs_keep_the_clean_metrics_apart_from_the_adversarial_one():
    model, (kernel, bias) = _linear()
    x = np.random.default_rng(1).uniform(size=(64, 6)).astype("float32")
    moved = np.sign(kernel[:, :1].T) * 0.3
    y = np.argmax(x @ kernel + bias, axis=-1)
    y[:8] = (y[:8] + 1) % 3

    class Towards(Shift):
        def perturb(self, classifier, x, y, threat_model, seed):
            found = super().perturb(classifier, x, y, threat_model, seed)
            return found._replace(x_adv=x + tf.constant(moved, tf.float32))

    step = _step(model, Towards())
    logs = {key: float(value) for key, value in step(_batch(x, y)).items()}
    assert sorted(logs) == ["accuracy", "adv_accuracy", "loss"]
    assert logs["accuracy"] == 56 / 64
    after = np.mean(np.argmax((x + moved) @ kernel + bias, axis=-1) == y)
    assert after < 0.6
    assert logs["adv_accuracy"] == pytest.approx(after)
    assert float(step.accuracy.result()) == 56 / 64
    assert float(step.zero_gradient.result()) == 0.0
    assert step.num_classes == 3
    step.reset_meters()
    assert float(step.accuracy.result()) == float(step.adv_accuracy.result()) == 0.0


def test_metrics_of_several_batches_are_running_means():
    model, _ = _linear()
    model.optimizer.learning_rate = 0.0
    step = _step(model, Shift())
    hits = np.argmax(model(X), axis=-1) == Y
    step(_batch(X[:1], Y[:1]))
    logs = step(_batch(X[1:], Y[1:]))
    assert float(logs["accuracy"]) == pytest.approx(hits.mean())
    assert float(logs["loss"]) == pytest.approx(
        np.mean(forward_passes.cross_entropy(np.asarray(model(X + 0.1), "float64"))), rel=1e-5
    )


def test_random_numbers_derive_from_the_seed_and_the_iteration():
    model, _ = _linear()
    attack = Noting()
    step = _step(model, attack)
    for _ in range(3):
        step(_batch())
    assert attack.seeds == [(SEED, 0), (SEED, 1), (SEED, 2)]


def test_the_radius_ramps_up_from_zero():
    model, _ = _linear()
    attack = Noting()
    step = _step(model, attack, epsilon_warmup=(0, 4))
    for _ in range(6):
        step(_batch())
    np.testing.assert_allclose(attack.radii, 0.1 * np.array([0.25, 0.5, 0.75, 1, 1, 1]), rtol=1e-6)


def test_the_ramp_may_start_later():
    model, _ = _linear()
    attack = Noting()
    step = _step(model, attack, epsilon_warmup=(2, 2))
    for _ in range(5):
        step(_batch())
    np.testing.assert_allclose(attack.radii, 0.1 * np.array([0, 0, 0.5, 1, 1]), rtol=1e-6)


def test_a_scheduled_radius_is_read_at_the_iteration():
    model, _ = _linear()
    attack = Noting()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.2])
    step = _step(model, attack, threat_model=kr.threat_models.Linf(schedule))
    for _ in range(4):
        step(_batch())
    np.testing.assert_allclose(attack.radii, [0.1, 0.1, 0.2, 0.2], rtol=1e-6)


def test_the_attack_is_the_one_of_the_field():
    model, (kernel, bias) = _linear()
    # FGSM on a linear model: the sign of the gradient of the cross-entropy, by hand.
    probabilities = np.exp(forward_passes.log_softmax(X.astype("float64") @ kernel + bias))
    x_adv = np.clip(X + 0.1 * np.sign((probabilities - np.eye(3)[Y]) @ kernel.T), 0.0, 1.0)
    expected = _softmax_regression(kernel, bias, x_adv, np.ones(4))
    _step(model, "fgsm")(_batch())
    for found, wanted in zip(model.get_weights(), expected[:2], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@tiers.parametrize("objective,clean_passes", [("adversarial", 0), ("mixed", 1), ("trades", 1)])
def test_batch_norm_statistics_see_no_pass_of_the_attack(objective, clean_passes):
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((6,)), norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    norm.moving_mean.assign(np.linspace(0.0, 1.0, 6))
    attack = kr.attacks.PGD(num_steps=3)
    batch = forward_passes.batch(ball=BALL, seed=(SEED, 0))
    found = kr.objectives.get(objective).perturb(attack, models.Classifier(model), batch)
    expected = np.linspace(0.0, 1.0, 6)
    for batch in [X] * clean_passes + [np.asarray(found.x_adv)]:
        expected = 0.9 * expected + 0.1 * batch.mean(axis=0)
    _step(model, attack, objective)(_batch())
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


@pytest.mark.exhaustive
def test_xla_takes_the_same_step():
    models = [_linear()[0] for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    steps = [_step(model, kr.attacks.BIM(num_steps=3), "mixed") for model in models]
    steps[1].use_xla()
    logs = [{key: float(value) for key, value in step(_batch()).items()} for step in steps]
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
    for plain, compiled in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-6)


def test_dictionary_inputs_and_integer_images():
    inputs = keras.Input((6,), name="image")
    head = keras.layers.Dense(3)
    model = keras.Model({"image": inputs}, head(inputs / 255.0))
    model.compile(
        keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    kernel, bias = (weight.numpy().astype("float64") for weight in head.weights)
    x = np.round(255 * X).astype("uint8")
    expected = _softmax_regression(kernel, bias, (x + 8.0) / 255.0, np.ones(4))
    ball = kr.threat_models.Linf(8, bounds=(0, 255))
    _step(model, Shift(), threat_model=ball)(_batch({"image": x}))
    for found, wanted in zip(model.get_weights(), expected[:2], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_regression_has_a_loss_and_no_accuracy_under_attack():
    model, (kernel, bias) = _linear(loss="mse")
    y = np.ones((4, 3), "float32")
    step = _step(model, Shift())
    with pytest.warns(
        UserWarning, match="has an accuracy as a metric and is trained as a regression"
    ):
        logs = step(_batch(X, y))
    assert "adv_accuracy" not in logs
    assert step.num_classes == 0
    expected = np.mean(((X + 0.1) @ kernel + bias - y) ** 2)
    assert float(logs["adv_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)


def test_zero_gradients_are_counted():
    model, _ = _linear()
    model.set_weights([np.zeros((6, 3)), np.zeros(3)])
    step = _step(model, kr.attacks.PGD(num_steps=2))
    step(_batch())
    assert float(step.zero_gradient.result()) == 1.0


def _refused(model, batch, message, **arguments):
    """Asserts that the step fails with our message, and keeps the weights."""
    before = model.get_weights()
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as caught:
        tf.function(_step(model, Shift(), **arguments))(batch)
    text = backend.required_message(caught.value) or str(caught.value)
    assert text.startswith(message[0])
    assert text.endswith(message[1])
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


@tiers.parametrize(
    "value,message",
    [
        (np.nan, ("Inputs must be finite.", "Received: a batch with 1 NaN or infinite values")),
        (np.inf, ("Inputs must be finite.", "Received: a batch with 1 NaN or infinite values")),
        (3.5, ("Inputs must lie in the bounds", "to 3.5 under bounds=(0.0, 1.0)")),
        (-2.0, ("Inputs must lie in the bounds", "under bounds=(0.0, 1.0)")),
    ],
)
def test_bad_inputs(value, message):
    x = X.copy()
    x[1, 2] = value
    _refused(_linear()[0], _batch(x), message)


@pytest.mark.exhaustive
def test_bounds_of_each_channel():
    ball = kr.threat_models.Linf(0.1, bounds=([0.0] * 6, [1.0] * 5 + [0.5]))
    x = X.copy()
    x[:, 5] = 0.75
    model, _ = _linear()
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        tf.function(_step(model, Shift(), threat_model=ball))(_batch(x))
    assert "values from 0.1" in backend.required_message(caught.value)
    x[:, 5] = 0.25
    tf.function(_step(model, Shift(), threat_model=ball))(_batch(x))


@tiers.parametrize("label", [3, -1])
def test_labels_that_are_no_class(label):
    y = np.array([0, label, 1, 2])
    low, high = min(0, label), max(2, label)
    message = (
        "Labels must be class indices from 0 to 2, as the model has 3 classes.",
        f"Received: a batch with labels from {low} to {high}",
    )
    _refused(_linear()[0], _batch(X, y), message)


def test_no_labels():
    model, _ = _linear()
    with refusals.assert_refused("AdvTrain needs labels to train on. Received: y=None", model):
        _step(model)((tf.constant(X),))


def test_several_inputs():
    model, _ = _linear()
    x = {"first": tf.constant(X), "second": tf.constant(X)}
    message = r"The model has several inputs. Choose .*Received: inputs \['first', 'second'\]"
    with refusals.assert_refused(message, model):
        _step(model)((x, tf.constant(Y)))
    with refusals.assert_refused("Received: inputs 2 tensors", model):
        _step(model)(((tf.constant(X), tf.constant(X)), tf.constant(Y)))


class Normalise(keras.layers.Layer):
    """A softmax that Keras does not recognize."""

    def call(self, x):
        exponentials = keras.ops.exp(x)
        return exponentials / keras.ops.sum(exponentials, axis=-1, keepdims=True)


@tiers.parametrize("objective", ["adversarial", "mixed"])
def test_probabilities_under_a_loss_from_logits(objective):
    model, _ = _linear(tail=[Normalise()])
    message = ("The loss takes logits, but the outputs of the model are probabilities", "")
    _refused(model, _batch(), message, objective=objective)


@tiers.parametrize("objective", ["adversarial", "mixed"])
def test_logits_under_a_loss_of_probabilities(objective):
    model, _ = _linear(loss="sparse_categorical_crossentropy")
    message = ("The loss takes probabilities, but the outputs of the model do not sum to 1", "")
    _refused(model, _batch(), message, objective=objective)


class _Remembering(kr.objectives.Clean):
    """Counts the examples of a training, and trains on reversed labels."""

    def new_objective_state(self, x, y, sample_weight):
        assert x.shape[1:] == (6,) and y.shape[1:] == ()
        return keras.Variable("zeros", shape=(), dtype="int32", trainable=False)

    def loss(self, clean, adversarial):
        return adversarial.loss

    def step(self, gradient_step, attack, batch):
        batch.objective_state.assign_add(keras.ops.shape(batch.x)[0])
        found = kr.attacks.AttackResult.unattacked(batch.x)
        turned = batch._replace(y=(batch.y + 1) % 3)
        return gradient_step.apply(gradient_step.backward(self.loss, found, batch=turned))

    runs_attack = True


@pytest.mark.exhaustive
@tiers.parametrize("jit_compile", [False, True])
def test_a_state_lasts_for_a_fit_and_meters_use_the_labels_of_their_pass(jit_compile):
    model, (kernel, bias) = _linear()
    step = _step(model, objective=_Remembering())
    if jit_compile:
        step.use_xla()
    run = tf.function(step)
    z = X.astype("float64") @ kernel + bias
    run(_batch())
    assert float(step.accuracy.result()) == pytest.approx(np.mean(z.argmax(-1) == Y))
    assert float(step.adv_accuracy.result()) == pytest.approx(np.mean(z.argmax(-1) == (Y + 1) % 3))
    run(_batch())
    run(_batch(X[:3], Y[:3]))
    assert int(step._objective_state) == 11
    assert _step(model, objective=_Remembering())._objective_state is None


def test_a_state_cannot_be_shared_by_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model, _ = _linear()
    step = _step(model, objective=_Remembering())
    with refusals.assert_refused("_Remembering keeps a state.*strategy of 2 replicas"):
        strategy.run(step, (_batch(),))


@pytest.mark.exhaustive
@tiers.parametrize("form", ["list", "dict"])
def test_labels_come_in_any_form_that_keras_takes(form):
    inputs = keras.Input((4,))
    heads = {name: keras.layers.Dense(3, name=name)(inputs) for name in "ab"}
    model = keras.Model(inputs, heads if form == "dict" else list(heads.values()))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"a": loss, "b": loss}, metrics={"a": ["accuracy"]})
    x, y = linear_fit.data()
    labels = [y, y] if form == "dict" else {"a": y, "b": y}
    plain = model.fit(x, labels, verbose=0, shuffle=False).history
    found = linear_fit.fit(model, linear_fit.adv_train(), x, labels).history
    assert found.keys() == {*plain, "adv_loss"}
