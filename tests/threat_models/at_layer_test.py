import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import refusals
from tests.support import tiers

AtLayer = kr.threat_models.AtLayer
BALL = AtLayer("embedding", kr.L2(0.5, bounds=None))
VOCABULARY, WIDTH, LENGTH, CLASSES = 30, 6, 7, 3
RATE = 0.7


def tokens(count=8, padded=2):
    """Returns tokens and labels; every second sentence ends in `padded` zeros."""
    rng = np.random.default_rng(1)
    x = rng.integers(1, VOCABULARY, size=(count, LENGTH))
    x[::2, LENGTH - padded :] = 0
    return x, rng.integers(0, CLASSES, size=count)


def model(mask_zero=False, penalty=0.0, **compile_arguments):
    """Returns a model that is linear behind the embedding, except for the softmax."""
    keras.utils.set_random_seed(4)
    regulariser = keras.regularizers.L2(penalty) if penalty else None
    layers = [
        keras.layers.Embedding(
            VOCABULARY,
            WIDTH,
            mask_zero=mask_zero,
            name="embedding",
            embeddings_regularizer=regulariser,
            activity_regularizer=regulariser,
        ),
        keras.layers.GlobalAveragePooling1D(name="pool"),
        keras.layers.Dense(CLASSES, use_bias=False, name="head"),
    ]
    network = keras.Sequential([keras.Input((None,), dtype="int32"), *layers])
    rng = np.random.default_rng(4)
    network.set_weights([rng.normal(size=w.shape) for w in network.get_weights()])
    network.compile(
        keras.optimizers.SGD(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    return network


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class Reference:
    """The model and one step of its adversarial training in float64."""

    def __init__(self, network, x, y, mask_zero):
        self.table, self.kernel = (w.astype("float64") for w in network.get_weights())
        self.x, self.true = x, np.eye(CLASSES)[y]
        seen = (x > 0) if mask_zero else np.ones_like(x, bool)
        self.share = seen / seen.sum(axis=1, keepdims=True)
        self.h = self.table[x]

    def logits(self, h):
        return np.einsum("nt,ntd->nd", self.share, h) @ self.kernel

    def gradient(self, h):
        """Returns the gradient of each example's cross-entropy with respect to `h`."""
        error = softmax(self.logits(h)) - self.true
        return self.share[..., None] * (error @ self.kernel.T)[:, None]

    def fgm(self, epsilon):
        """Returns `delta = epsilon * g / ||g||`, over the whole sentence."""
        g = self.gradient(self.h)
        return epsilon * g / np.sqrt(np.sum(g**2, axis=(1, 2), keepdims=True))

    def step(self, epsilon, weight=1.0):
        """Returns table and kernel after one gradient descent step on `L(h + delta)`."""
        h = self.h + self.fgm(epsilon)
        rows = np.ones(len(self.x)) * weight / len(self.x)
        error = rows[:, None] * (softmax(self.logits(h)) - self.true)
        pooled = np.einsum("nt,ntd->nd", self.share, h)
        table = self.table.copy()
        np.subtract.at(
            table, self.x, RATE * self.share[..., None] * (error @ self.kernel.T)[:, None]
        )
        return table, self.kernel - RATE * pooled.T @ error


@tiers.parametrize("mask_zero", [False, True])
def test_one_step_is_the_fast_gradient_method_on_embeddings(mask_zero):
    x, y = tokens()
    network = model(mask_zero)
    reference = Reference(network, x, y, mask_zero)
    # Examples that are misclassified from the start are returned unchanged.
    right = np.argmax(reference.logits(reference.h), axis=-1)
    reference.true = np.eye(CLASSES)[right]
    x_adv = kr.attacks.FGSM()(network, x, right, BALL)
    np.testing.assert_allclose(x_adv, reference.h + reference.fgm(0.5), rtol=0, atol=1e-5)
    if mask_zero:
        np.testing.assert_array_equal(x_adv[x == 0], np.float32(reference.h[x == 0]))


@pytest.mark.exhaustive
@backends.with_and_without_xla
@tiers.parametrize("mask_zero", [False, True])
@tiers.parametrize("weighted", [False, True])
def test_training_also_moves_the_embeddings(mask_zero, weighted, jit_compile):
    x, y = tokens()
    network = model(mask_zero, jit_compile=jit_compile)
    weight = np.linspace(0.0, 2.0, len(x)) if weighted else 1.0
    table, kernel = Reference(network, x, y, mask_zero).step(0.5, weight)
    callback = kr.AdvTrain(BALL, attack="fgsm", warmup=0)
    sample_weight = weight if weighted else None
    network.fit(x, y, verbose=0, callbacks=[callback], sample_weight=sample_weight)
    np.testing.assert_allclose(network.get_weights()[0], table, rtol=0, atol=1e-5)
    np.testing.assert_allclose(network.get_weights()[1], kernel, rtol=0, atol=1e-5)
    assert "call" not in vars(network.layers[0])


@pytest.mark.exhaustive
def test_clean_training_is_training_without_it_and_regularisers_count_once():
    x, y = tokens()
    histories, weights = [], []
    for callbacks in ([], [kr.AdvTrain(BALL, objective="clean")]):
        network = model(penalty=0.01)
        history = network.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
        histories.append(history.history["loss"])
        weights.append(network.get_weights())
    np.testing.assert_allclose(*histories, rtol=1e-6)
    for plain, ours in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("norm", ["L1", "L2", "Linf"])
def test_padding_is_not_perturbed_and_costs_no_budget(norm):
    x, _ = tokens()
    network = model(mask_zero=True)
    # Examples that are misclassified from the start would be returned unchanged.
    y = np.argmax(network.predict(x, verbose=0), axis=-1)
    ball = AtLayer("embedding", getattr(kr, norm)(0.3, bounds=None))
    attack = kr.attacks.PGD(num_steps=8, step_size=0.3, loss="margin")
    found = attack.run(network, x, y, ball)
    table = network.get_weights()[0]
    np.testing.assert_array_equal(found.x_adv[x == 0], table[x[x == 0]])
    # The mean of a sentence does not depend on the length of its padding.
    longer = np.concatenate([x, np.zeros_like(x)], axis=1)
    again = attack.run(network, longer, y, ball)
    np.testing.assert_allclose(again.loss, found.loss, rtol=2e-3, atol=2e-3)
    assert found.loss.mean() > attack.run(network, x, y, ball.with_epsilon(0.0)).loss.mean() + 0.02


def test_no_method_perturbs_padding():
    x, _ = tokens()
    network = model(mask_zero=True)
    h, _, ball = BALL.bind(network, x)
    h = np.asarray(h)
    hidden = x == 0
    noise = np.random.default_rng(0).normal(size=h.shape).astype("float32")
    start = np.asarray(ball.random_start(h, np.array([1, 2])))
    for x_adv in (
        start,
        ball.project(h + noise, h),
        ball.linear_maximization_oracle(noise, h),
        ball.step(h, noise, 0.1),
        h + ball.steepest_direction(noise),
    ):
        delta = np.asarray(x_adv) - h
        np.testing.assert_array_equal(delta[hidden], 0.0)
        assert np.all(np.any(delta[~hidden] != 0.0, axis=-1))
    # The whole radius is available for the visible positions.
    length = np.linalg.norm((np.asarray(ball.project(h + noise, h)) - h).reshape(8, -1), axis=1)
    np.testing.assert_allclose(length, 0.5, rtol=1e-5)
    # Without a mask every position is perturbed.
    _, _, ball = BALL.bind(model(), x)
    assert np.all(np.asarray(ball.random_start(h, np.array([1, 2]))) != h)


@pytest.mark.exhaustive
def test_radii_of_features_scales_and_schedules():
    x, y = tokens()
    network = model()
    features = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    ball = AtLayer("embedding", kr.Linf(features, bounds=None))
    h = network.get_weights()[0][x]
    right = np.argmax(network.predict(x, verbose=0), axis=-1)
    for factor in (1.0, 0.5):
        delta = kr.attacks.FGSM()(network, x, right, ball.scaled(factor)) - h
        np.testing.assert_allclose(np.abs(delta).max(axis=(0, 1)), factor * features, atol=1e-6)
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 100, 0.0)
    scheduled = AtLayer("embedding", kr.L2(schedule, bounds=None))
    callback = kr.AdvTrain(scheduled, attack="fgsm")
    network = model()
    table, kernel = Reference(network, x, y, False).step(0.5)
    network.fit(x, y, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(network.get_weights()[0], table, rtol=0, atol=1e-5)


OBJECTIVES = {
    "TRADES": "trades",
    "AWP": kr.objectives.AWP(gamma=0.01),
    "LogitPairing": kr.objectives.LogitPairing(),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_other_objectives(objective):
    x, y = tokens()
    trained = []
    for ball in (BALL, BALL.with_epsilon(1e-6)):
        network = model(mask_zero=True)
        attack = kr.attacks.PGD(num_steps=2)
        callback = kr.AdvTrain(ball, attack=attack, objective=OBJECTIVES[objective], warmup=0)
        history = network.fit(x, y, verbose=0, callbacks=[callback]).history
        trained.append(network.get_weights()[0])
    assert np.isfinite(history["loss"]).all() and "adv_accuracy" in history
    assert np.abs(trained[0] - trained[1]).max() > 1e-4


def test_validation_equals_an_attack_on_all_of_the_data():
    x, y = tokens()
    network, attack = model(mask_zero=True), kr.attacks.PGD(num_steps=2)
    network.optimizer.learning_rate = 0.0
    validation = kr.RobustValidation((x, y), BALL, attack=attack, batch_size=3)
    logs = network.fit(x, y, verbose=0, callbacks=[validation]).history
    found = attack.run(network, x, y, BALL)
    assert logs["val_adv_loss"] == [pytest.approx(found.loss.mean(), rel=1e-5)]
    assert logs["val_adv_accuracy"] == [pytest.approx(1.0 - found.success.mean())]


def sentences(count, rng):
    """Returns sentences with labels; one of every four words is positive or negative."""
    x = rng.integers(1, 200, size=(count, 12))
    x[np.arange(12) >= rng.integers(6, 13, (count, 1))] = 0
    polarity = np.where(x % 4 == 3, np.where(x % 8 == 3, 1.0, -1.0), 0.0)
    return x, (polarity.sum(axis=1) + 0.5 * rng.normal(size=count) > 0.0).astype("int32")


@pytest.mark.exhaustive
@pytest.mark.parametrize("mask_zero", [False, True])
def test_training_lowers_the_loss_under_attack(mask_zero):
    rng = np.random.default_rng(0)
    x, y = sentences(300, rng)
    data = sentences(500, rng)
    ball = AtLayer("unit", kr.L2(0.5, bounds=None))
    adv_loss = []
    for callbacks in ([], [kr.AdvTrain(ball, attack="fgsm", objective="mixed")]):
        keras.utils.set_random_seed(0)
        embedding = keras.layers.Embedding(200, 8, mask_zero=mask_zero)
        unit = keras.layers.UnitNormalization(name="unit")
        pool, hidden = keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(16, "relu")
        network = keras.Sequential([embedding, unit, pool, hidden, keras.layers.Dense(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(keras.optimizers.Adam(0.02), loss)
        network.fit(x, y, epochs=15, verbose=0, callbacks=callbacks)
        adv_loss.append(kr.attacks.PGD(num_steps=5).run(network, *data, ball).loss.mean())
    assert adv_loss[1] < 0.75 * adv_loss[0]


def test_robust_accuracy_is_refused():
    x, y = tokens()
    network = model()
    message = r"changes the outputs of a layer.*Received: AtLayer\(.*epsilon=0.5"
    with refusals.assert_refused(message, network):
        kr.evaluate(network, (x, y), BALL, "pgd")


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("l2", r"use bounds=None.*Received: L2\(epsilon=0.5, bounds=\(0.0, 1.0\)\)"),
        (BALL, r"hold threat models for one tensor.*Received: AtLayer\("),
        (kr.L2(np.ones(8), None), "one value per example"),
    ],
)
def test_bad_arguments_are_explained(inner, message):
    with refusals.assert_refused(message):
        AtLayer("embedding", inner)


def test_an_unknown_layer_lists_the_known_ones():
    x, y = tokens()
    ball = AtLayer("embeddings", kr.L2(0.5, bounds=None))
    message = r"one of \['embedding', 'head', 'pool'\]. Received: layer='embeddings'"
    network = model()
    with refusals.assert_refused(message, network):
        network.fit(x, y, verbose=0, callbacks=[kr.AdvTrain(ball)])
    with refusals.assert_refused(message, network):
        kr.attacks.FGSM()(network, x, y, ball)


@pytest.mark.exhaustive
def test_float_inputs_are_checked():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="embedding")])
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.array([[0.0, 5.0], [np.nan, 1.0]]), np.array([0, 1])
    with refusals.assert_refused("Inputs must be finite", network):
        network.fit(x, y, verbose=0, callbacks=[kr.AdvTrain(BALL)])
    with pytest.raises(ValueError, match="Inputs must be finite"):
        kr.attacks.FGSM()(network, x, y, BALL)
    with refusals.assert_refused("class indices from 0 to 1", network):
        network.fit(x[:1], np.array([2]), verbose=0, callbacks=[kr.AdvTrain(BALL)])
