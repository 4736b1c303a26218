import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import backend
from tests.support import backends
from tests.support import forward_passes
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

AdversarialPool = kr.objectives.AdversarialPool
EPSILON = linear_fit.EPSILON
CLASSES = np.eye(linear_fit.NUM_CLASSES)


def drawn_rows(step, count, filled, seed=0):
    """Returns the rows of the pool for a batch, computed from the same random numbers."""
    key = backend.fold_in(keras.ops.convert_to_tensor([seed, step]), 307)
    share = np.asarray(backend.uniform((count,), key))
    return np.minimum((share * np.float32(filled)).astype(int), filled - 1)


def reference(x, y, sample_weight=None, *, alpha, pool_size, refresh, epochs=1, seed=0, first=0):
    """The training in float64: weights, logs of the last epoch, and what was put in the pool."""
    weights, step, made = linear_fit.initial_weights().astype("float64"), first, 0
    sample_weight = np.ones(len(x)) if sample_weight is None else sample_weight
    pool, size = [None] * pool_size, linear_fit.BATCH_SIZE
    for _ in range(epochs):
        sums = {"loss": 0.0, "accuracy": 0.0, "adv_accuracy": 0.0}
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            xb, yb, wb = x[rows].astype("float64"), y[rows], sample_weight[rows]
            if step % refresh == 0 or not made:
                fresh = linear_fit.fgsm(xb, yb, weights, EPSILON)
                for entry in list(zip(fresh, yb, wb, strict=True))[:pool_size]:
                    pool[made % pool_size] = entry
                    made += 1
            taken = drawn_rows(step, len(xb), min(made, pool_size), seed)
            xp, yp, wp = (np.stack(part) for part in zip(*[pool[i] for i in taken], strict=True))
            gradient, loss = 0.0, 0.0
            for share, inputs, labels, w in ((alpha, xb, yb, wb), (1.0 - alpha, xp, yp, wp)):
                p = linear_fit.softmax(inputs @ weights)
                error = (p - CLASSES[labels]) * w[:, None] / len(xb)
                gradient = gradient + share * inputs.T @ error
                loss -= share * np.mean(w * np.log(p[np.arange(len(xb)), labels]))
            sums["loss"] += loss * len(xb)
            sums["accuracy"] += np.sum(wb * (np.argmax(xb @ weights, 1) == yb))
            sums["adv_accuracy"] += np.sum(np.argmax(xp @ weights, 1) == yp)
            weights = weights - linear_fit.LEARNING_RATE * gradient
            step += 1
    return weights, {name: value / len(x) for name, value in sums.items()}, made


def fit(model, x, y, *, seed=0, attack="fgsm", epochs=1, sample_weight=None, **arguments):
    robust = linear_fit.adv_train(attack=attack, objective=AdversarialPool(**arguments), seed=seed)
    history = linear_fit.fit(model, robust, x, y, epochs=epochs, sample_weight=sample_weight)
    return {name: values[-1] for name, values in history.history.items()}


@tiers.parametrize(
    "arguments",
    [
        {"alpha": 0.3, "pool_size": 11, "refresh": 3},
        {"alpha": 0.5, "pool_size": 64, "refresh": 1},
        {"alpha": 0.3, "pool_size": 64, "refresh": 2},
        # Smaller than a batch.
        {"alpha": 0.5, "pool_size": 3, "refresh": 2},
    ],
)
@tiers.parametrize("weighted", [True, False])
def test_is_the_training_of_the_paper(arguments, weighted):
    # 22 examples in batches of 8: the last batch of an epoch has 6 examples, and draws 6.
    x, y = linear_fit.data()
    sample_weight = np.random.default_rng(2).uniform(0.2, 2.0, 22) if weighted else None
    model = linear_fit.make_model()
    logs = fit(model, x, y, epochs=3, sample_weight=sample_weight, **arguments)
    weights, expected, made = reference(x, y, sample_weight, epochs=3, **arguments)
    assert made > arguments["pool_size"] or arguments["pool_size"] == 64
    np.testing.assert_allclose(linear_fit.weights(model), weights, rtol=1e-4, atol=1e-5)
    assert logs["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert logs["adv_accuracy"] == pytest.approx(expected["adv_accuracy"], abs=1e-6)
    if not weighted:
        assert logs["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-6)


@pytest.mark.exhaustive
def test_defaults():
    x, y = linear_fit.data()
    model = linear_fit.make_model()
    fit(model, x, y, epochs=5)
    weights, _, made = reference(x, y, epochs=5, alpha=0.5, pool_size=1024, refresh=10)
    # Steps 0 and 10 of 15: batches of 8.
    assert made == 16
    np.testing.assert_allclose(linear_fit.weights(model), weights, rtol=1e-4, atol=1e-5)
    assert type(kr.AdvTrain(objective="adversarial_pool").attack) is kr.attacks.LBFGS


@pytest.mark.exhaustive
def test_the_seed_decides_what_is_drawn():
    x, y = linear_fit.data()
    arguments, found = {"alpha": 0.2, "pool_size": 16, "refresh": 2}, []
    for seed in (3, 3, 4):
        model = linear_fit.make_model()
        fit(model, x, y, seed=seed, **arguments)
        expected, *_ = reference(x, y, seed=seed, **arguments)
        np.testing.assert_allclose(linear_fit.weights(model), expected, rtol=1e-4, atol=1e-5)
        found.append(linear_fit.weights(model))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[2] - found[0]).max() > 1e-4


@pytest.mark.exhaustive
def test_every_fit_starts_with_an_empty_pool():
    x, y = linear_fit.data()
    model = linear_fit.make_model()
    arguments = {"alpha": 0.5, "pool_size": 64, "refresh": 4}
    robust = linear_fit.adv_train(objective=AdversarialPool(**arguments))
    linear_fit.fit(model, robust, x, y)
    model.layers[-1].set_weights([linear_fit.initial_weights()])
    # The optimizer resumes at step 3, at which only an empty pool is filled.
    linear_fit.fit(model, robust, x[::-1], y[::-1])
    weights, _, made = reference(x[::-1], y[::-1], first=3, **arguments)
    assert made == 16
    np.testing.assert_allclose(linear_fit.weights(model), weights, rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
def test_the_weight_may_be_a_schedule():
    x, y = linear_fit.data(8)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.25])
    model, expected = linear_fit.make_model(), linear_fit.make_model()
    model.optimizer.iterations.assign(5)
    fit(model, x, y, alpha=schedule)
    weights, *_ = reference(x, y, alpha=0.25, pool_size=1024, refresh=10, first=5)
    np.testing.assert_allclose(linear_fit.weights(model), weights, rtol=1e-4, atol=1e-5)
    assert np.abs(linear_fit.weights(expected) - weights).max() > 1e-2


def test_the_loss_is_the_mix_with_regularisers_once():
    clean, adversarial = forward_passes.forward_passes(
        forward_passes.model(penalty=0.1), y=forward_passes.Y
    )
    loss = float(AdversarialPool(alpha=0.3).loss(clean, adversarial))
    with_penalty = 0.3 * float(clean.loss) + 0.7 * float(adversarial.loss)
    assert loss == pytest.approx(with_penalty, rel=1e-6)
    plain = AdversarialPool(alpha=0.3).loss(*forward_passes.forward_passes(forward_passes.model()))
    kernel = forward_passes.model().layers[-1].get_weights()[0]
    assert loss - float(plain) == pytest.approx(0.1 * np.sum(kernel**2), rel=1e-4)


@pytest.mark.exhaustive
def test_labels_of_any_form_keep_to_their_examples():
    x, y = linear_fit.data()
    arguments = {"alpha": 0.0, "pool_size": 12, "refresh": 2, "epochs": 2}
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model = linear_fit.make_model(loss=loss)
    fit(model, x, CLASSES[y].astype("float32"), **arguments)
    weights, *_ = reference(x, y, **arguments)
    np.testing.assert_allclose(linear_fit.weights(model), weights, rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
def test_batch_norm_sees_the_clean_and_the_drawn_examples():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = linear_fit.make_model([norm], optimizer=keras.optimizers.SGD(0.0))
    x, y = linear_fit.data(8)
    fit(model, x, y, pool_size=8)
    fresh = linear_fit.fgsm(x, y, linear_fit.initial_weights() / np.sqrt(1.0 + 1e-3), EPSILON)
    taken = drawn_rows(0, 8, 8)
    assert len(set(taken)) < 8
    expected = 0.9 * 0.1 * x.mean(0) + 0.1 * fresh[taken].mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("attack", ["lbfgs", "fgsm"])
def test_xla_fills_and_draws_too(attack):
    x, y = linear_fit.data(16)
    model = linear_fit.make_model(jit_compile=True)
    logs = fit(model, x, y, attack=attack, alpha=0.5, pool_size=8, refresh=1)
    assert np.isfinite(logs["loss"]) and set(logs) == {"accuracy", "adv_accuracy", "loss"}
    # In a pool of one example every drawn row is the same, whatever the random numbers.
    model = linear_fit.make_model(jit_compile=True)
    fit(model, x, y, alpha=0.5, pool_size=1, refresh=1)
    weights, *_ = reference(x, y, alpha=0.5, pool_size=1, refresh=1)
    np.testing.assert_allclose(linear_fit.weights(model), weights, rtol=1e-4, atol=1e-5)


def test_the_attack_runs_only_when_it_is_time():
    runs = []

    class Counted(kr.attacks.FGSM):
        def perturb(self, classifier, x, y, threat_model, seed):
            # A branch that is not taken may still be traced.
            backends.observe(lambda x: runs.append(len(x)), x)
            return super().perturb(classifier, x, y, threat_model, seed)

    x, y = linear_fit.data(8 * 7)
    model = linear_fit.make_model(run_eagerly=True)
    fit(model, x, y, attack=Counted(), refresh=3)
    assert runs == [8, 8, 8]  # At steps 0, 3 and 6.


@pytest.mark.exhaustive
def test_zero_gradients_cause_a_warning():
    x, y = linear_fit.data(8)
    model = linear_fit.make_model()
    model.layers[-1].set_weights([np.zeros((4, 3))])
    message = "Every input gradient of the first batch is zero"
    with refusals.assert_warned_once(message):
        fit(model, x, y)


@pytest.mark.exhaustive
@backends.tensorflow_only("replicas are TensorFlow's")
def test_several_replicas_are_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = linear_fit.make_model()
    message = "AdversarialPool keeps a state from batch to batch.*strategy of 2 replicas"
    with refusals.assert_refused(message, model):
        fit(model, *linear_fit.data())


def test_models_with_several_inputs_are_refused():
    one, other = keras.Input((2,)), keras.Input((3,))
    model = keras.Model([one, other], keras.layers.Concatenate()([one, other]))
    message = "stores the attacked input.*Received: a model with 2 inputs"
    with refusals.assert_refused(message):
        AdversarialPool().check(model, kr.Linf(0.1))


def test_examples_of_several_shapes_are_refused():
    x = keras.KerasTensor((None, None, 3))
    message = r"needs examples and labels of one shape.*Received: a tensor of shape \(None, None, 3"
    with refusals.assert_refused(message):
        AdversarialPool().new_objective_state(x, keras.KerasTensor((None,)), None)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"alpha": 1.5}, "`alpha` must be a number from 0 to 1.0.*Received: alpha=1.5"),
        ({"pool_size": 0}, "`pool_size` must be an int >= 1. Received: pool_size=0"),
        ({"refresh": 2.5}, "`refresh` must be an int >= 1. Received: refresh=2.5"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(AdversarialPool, message, **arguments)


def test_perturbed_layers_are_refused():
    ball = kr.threat_models.AtLayer("hidden", kr.L2(0.5, bounds=None))
    with pytest.raises(ValueError, match="changes the output of a layer.*Received: AtLayer"):
        kr.objectives.AdversarialPool().check(forward_passes.model(), ball)
