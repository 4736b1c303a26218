import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

X, Y = linear_fit.data()


@tiers.parametrize(
    "arguments",
    [{"steps_per_execution": 2}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=str,
)
def test_two_epochs_equal_numpy_in_every_mode(arguments):
    model = linear_fit.make_model(**arguments)
    linear_fit.fit(model, linear_fit.adv_train(), epochs=2)
    weights, _ = linear_fit.expected(X, Y, epochs=2)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_sample_weights_count_in_the_loss():
    sample_weight = np.linspace(0.0, 2.0, len(X))
    model = linear_fit.make_model()
    linear_fit.fit(model, linear_fit.adv_train(), sample_weight=sample_weight)
    weights, _ = linear_fit.expected(X, Y, sample_weight)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_class_weights_count_in_the_loss():
    class_weight = {0: 0.5, 1: 2.0, 2: 0.0}
    model = linear_fit.make_model()
    linear_fit.fit(model, linear_fit.adv_train(), class_weight=class_weight)
    weights, _ = linear_fit.expected(X, Y, np.array([class_weight[label] for label in Y]))
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_a_softmax_at_the_end_equals_logits():
    model = keras.Sequential(
        [
            keras.Input((linear_fit.NUM_FEATURES,)),
            keras.layers.Dense(linear_fit.NUM_CLASSES, use_bias=False, activation="softmax"),
        ]
    )
    model.layers[-1].set_weights([linear_fit.initial_weights()])
    optimizer = keras.optimizers.SGD(linear_fit.LEARNING_RATE)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    linear_fit.fit(model, linear_fit.adv_train())
    weights, _ = linear_fit.expected(X, Y)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_the_objective_decides_what_is_minimised():
    model = linear_fit.make_model()
    linear_fit.fit(model, linear_fit.adv_train(objective=kr.objectives.Mixed(alpha=0.3)))
    weights, _ = linear_fit.expected(X, Y, alpha=0.3)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_gradient_accumulation_averages_batches():
    x, y = X[:16], Y[:16]
    model = linear_fit.make_model(
        optimizer=keras.optimizers.SGD(linear_fit.LEARNING_RATE, gradient_accumulation_steps=2)
    )
    linear_fit.fit(model, linear_fit.adv_train(), x, y)
    start = linear_fit.initial_weights().astype("float64")
    steps = []
    for rows in (slice(0, 8), slice(8, 16)):
        x_adv = linear_fit.fgsm(x[rows].astype("float64"), y[rows], start, linear_fit.EPSILON)
        error = linear_fit.softmax(x_adv @ start) - np.eye(linear_fit.NUM_CLASSES)[y[rows]]
        steps.append(x_adv.T @ error / 8)
    weights = start - linear_fit.LEARNING_RATE * np.mean(steps, axis=0)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


def test_a_custom_compute_loss_is_used():
    class Doubled(keras.Sequential):
        def compute_loss(self, *args, **kwargs):
            return 2.0 * super().compute_loss(*args, **kwargs)

    head = keras.layers.Dense(linear_fit.NUM_CLASSES, use_bias=False)
    model = Doubled([keras.Input((linear_fit.NUM_FEATURES,)), head])
    head.set_weights([linear_fit.initial_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(linear_fit.LEARNING_RATE / 2), loss)
    linear_fit.fit(model, linear_fit.adv_train())
    weights, _ = linear_fit.expected(X, Y)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Every input gradient")  # TRADES has none at the clean point.
@tiers.parametrize("objective", ["adversarial", "mixed", "logit_pairing", "trades"])
def test_regularisers_count_once(objective):
    # The labels carry no weight, and without step or noise the two forward_passes agree: what is
    # left of the loss is the regulariser, 0.1 * sum(w^2).
    head = keras.layers.Dense(3, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.1))
    model = keras.Sequential([keras.Input((linear_fit.NUM_FEATURES,)), head])
    head.set_weights([linear_fit.initial_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    attack = "pgd" if objective == "trades" else "fgsm"
    callback = linear_fit.adv_train(0.0, objective=objective, attack=attack)
    history = linear_fit.fit(model, callback, sample_weight=np.zeros(len(X)))
    penalty = 0.1 * np.sum(np.square(linear_fit.initial_weights()))
    assert history.history["loss"][0] == pytest.approx(penalty, rel=1e-5)


def test_a_single_sigmoid_equals_numpy():
    y = Y % 2
    start = linear_fit.initial_weights()[:, :1].astype("float64")
    model = keras.Sequential(
        [
            keras.Input((linear_fit.NUM_FEATURES,)),
            keras.layers.Dense(1, use_bias=False, activation="sigmoid"),
        ]
    )
    model.layers[-1].set_weights([start])
    model.compile(keras.optimizers.SGD(1.0), "binary_crossentropy", metrics=["accuracy"])
    history = linear_fit.fit(model, linear_fit.adv_train(), X, y, batch_size=len(X))
    x = X.astype("float64")
    x_adv = np.clip(x + linear_fit.EPSILON * (1 - 2 * y[:, None]) * np.sign(start.T), 0.0, 1.0)
    p = 1.0 / (1.0 + np.exp(-x_adv @ start))[:, 0]
    weights = start - (x_adv.T @ (p - y))[:, None] / len(x)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)
    assert history.history["adv_accuracy"][0] == pytest.approx(np.mean((p > 0.5) == y), abs=1e-6)


def test_several_outputs_are_attacked_through_the_compiled_loss():
    # Both outputs are linear: loss = mean(a) + 0.5 * mean(b), with known gradients.
    inputs = keras.Input((linear_fit.NUM_FEATURES,))
    outputs = [keras.layers.Dense(1, use_bias=False)(inputs) for _ in range(2)]
    model = keras.Model(inputs, outputs)
    first, second = (layer.get_weights()[0] for layer in model.layers[1:])

    def mean(y_true, y_pred):
        return keras.ops.mean(y_pred, axis=-1)

    model.compile(keras.optimizers.SGD(1.0), [mean, mean], loss_weights=[1.0, 0.5])
    linear_fit.fit(model, linear_fit.adv_train(), X, [Y, Y], batch_size=len(X))
    direction = np.sign((first + 0.5 * second)[:, 0])
    x_adv = np.clip(X + linear_fit.EPSILON * direction, 0.0, 1.0)
    step = x_adv.mean(axis=0)[:, None]
    np.testing.assert_allclose(model.layers[1].get_weights()[0], first - step, atol=1e-5)
    np.testing.assert_allclose(model.layers[2].get_weights()[0], second - 0.5 * step, atol=1e-5)


def test_epsilon_may_differ_between_features():
    epsilon = np.array([0.0, 0.05, 0.1, 0.2])
    model = linear_fit.make_model()
    linear_fit.fit(model, linear_fit.adv_train(epsilon))
    weights, _ = linear_fit.expected(X, Y, epsilon=lambda step: epsilon)
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=1e-5)


@pytest.mark.exhaustive
def test_seed_decides_the_random_start():
    results = []
    for seed in (0, 0, 1):
        model = linear_fit.make_model()
        attack = kr.attacks.PGD(num_steps=1, step_size=0.05)
        linear_fit.fit(model, linear_fit.adv_train(attack=attack, seed=seed))
        results.append(linear_fit.weights(model))
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-5


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:The steps of PGD are too small")
def test_random_starts_differ_from_step_to_step():
    seen = []

    class Spy(kr.objectives.Objective):
        def loss(self, clean, adversarial):
            return adversarial.loss

        def perturb(self, attack, classifier, batch):
            found = super().perturb(attack, classifier, batch)
            seen.append(np.asarray(found.x_adv) - np.asarray(batch.x))
            return found

    model = linear_fit.make_model(run_eagerly=True)
    x = np.full((16, linear_fit.NUM_FEATURES), 0.5, "float32")
    attack = kr.attacks.PGD(num_steps=1, step_size=1e-6)
    linear_fit.fit(model, linear_fit.adv_train(attack=attack, objective=Spy()), x, Y[:16])
    assert len(seen) == 2
    assert np.abs(seen[0] - seen[1]).max() > 0.01
    assert np.abs(seen[0][0] - seen[0][1]).max() > 0.01


@pytest.mark.exhaustive
@tiers.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_stays_close_to_numpy(policy):
    head = keras.layers.Dense(linear_fit.NUM_CLASSES, use_bias=False, dtype=policy)
    model = keras.Sequential([keras.Input((linear_fit.NUM_FEATURES,)), head])
    head.set_weights([linear_fit.initial_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(linear_fit.LEARNING_RATE)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
    model.compile(optimizer, loss)
    linear_fit.fit(model, linear_fit.adv_train())
    weights, _ = linear_fit.expected(X, Y)
    # Eight bits of mantissa in bfloat16, eleven in float16.
    np.testing.assert_allclose(linear_fit.weights(model), weights, atol=0.02)


def test_config_round_trip():
    callback = kr.AdvTrain(
        kr.L2("1/4", (-1.0, 1.0)),
        attack=kr.attacks.PGD(num_steps=3),
        objective=kr.objectives.TRADES(beta=2.0),
        clean_epochs=4,
        warmup="30%",
        seed=5,
    )
    again = kr.AdvTrain.from_config(callback.get_config())
    assert again.get_config() == callback.get_config()
    assert repr(again.attack) == repr(callback.attack)
    assert (again.clean_epochs, again.warmup, again.seed) == (4, "30%", 5)
    assert (again.threat_model.epsilon, again.objective.beta) == (0.25, 2.0)


@pytest.mark.parametrize("warmup", [-1, "120%", "x", 0.2, True])
def test_an_unreadable_warmup_is_refused(warmup):
    refusals.assert_argument_refused(
        kr.AdvTrain, "Argument `warmup` must be a percentage", warmup=warmup
    )


def test_a_model_stuck_at_chance_is_reported():
    y = np.tile(np.arange(3), 40)
    x = np.random.default_rng(0).uniform(size=(120, linear_fit.NUM_FEATURES)).astype("float32")
    model = linear_fit.make_model(optimizer=keras.optimizers.SGD(0.0))
    model.layers[-1].set_weights([np.tile([[2.0, 0.0, 0.0]], (4, 1))])
    message = "stayed at chance.*accuracy 0.333 with 3 classes"
    with refusals.assert_warned_once(message):
        linear_fit.fit(model, linear_fit.adv_train(), x, y, batch_size=2, epochs=2)


def test_zero_gradients_are_reported():
    model = linear_fit.make_model()
    model.layers[-1].set_weights([np.zeros((4, 3))])
    message = "Every input gradient of the first batch is zero"
    with refusals.assert_warned_once(message):
        linear_fit.fit(model, linear_fit.adv_train(), epochs=2)


class Subclassed(keras.Model):
    """The linear model, without weights until it is called."""

    def __init__(self):
        super().__init__()
        start = linear_fit.initial_weights()
        self.head = keras.layers.Dense(3, use_bias=False, kernel_initializer=lambda *_, **__: start)

    def call(self, x):
        return self.head(x)


@backends.with_and_without_xla
@pytest.mark.parametrize("make", [Subclassed, lambda: keras.Sequential([Subclassed().head])])
def test_a_model_that_is_not_built_is_built_from_the_data(make, jit_compile):
    model, (x, y) = make(), linear_fit.data()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(linear_fit.LEARNING_RATE)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit_compile)
    history = linear_fit.fit(model, linear_fit.adv_train(), x, y, epochs=2)
    weights, logs = linear_fit.expected(x, y, epochs=2)
    np.testing.assert_allclose(model.layers[-1].get_weights()[0], weights, rtol=1e-4, atol=1e-5)
    found = [history.history["accuracy"][epoch] for epoch in range(2)]
    np.testing.assert_allclose(found, [log["accuracy"] for log in logs], rtol=1e-5)


class Particular(kr.objectives.Adversarial):
    default_attack = kr.attacks.BIM(num_steps=2)


def test_the_attack_is_the_default_of_the_objective():
    assert kr.AdvTrain().attack.get_config() == kr.attacks.PGD().get_config()
    assert kr.AdvTrain().attack.num_steps == 10
    assert kr.AdvTrain(objective=Particular()).attack is Particular.default_attack
    around = kr.AdvTrain(objective=kr.objectives.AWP(objective=Particular()))
    assert around.attack is Particular.default_attack


def test_an_attack_that_is_given_is_used():
    callback = kr.AdvTrain(attack="fgsm", objective=Particular())
    assert isinstance(callback.attack, kr.attacks.FGSM)
    again = kr.AdvTrain.from_config(callback.get_config() | {"objective": "adversarial"})
    assert isinstance(again.attack, kr.attacks.FGSM)


def test_the_default_attack_may_be_a_name_and_must_need_no_targets():
    class Named(kr.objectives.Adversarial):
        default_attack = "momentum_pgd"

    class Targeted(kr.objectives.Adversarial):
        default_attack = kr.attacks.PGD(targeted=True)

    assert isinstance(kr.AdvTrain(objective=Named()).attack, kr.attacks.MomentumPGD)
    with pytest.raises(ValueError, match="have no target labels"):
        kr.AdvTrain(objective=Targeted())
