import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import forward_passes
from tests.support import gradients
from tests.support import linear_fit
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

VAT = kr.objectives.VAT
IGNORING = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)


def _loss(objective, model=None, **arguments):
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


def _terms(scale=1.0, fixed=1.0):
    """Cross-entropies and divergences with the last layer scaled, that of `p(x)` by `fixed`."""
    z, z_adv = (
        numpy_reference.logits(x.astype("float64"))
        for x in (forward_passes.X, forward_passes.X_ADV)
    )
    return forward_passes.cross_entropy(scale * z), forward_passes.kl_divergence(
        fixed * z, scale * z_adv
    )


def _paper(weight=1.0, sample_weight=None, scale=1.0):
    cross_entropy, divergence = _terms(scale)
    return forward_passes.mean(cross_entropy + weight * divergence, sample_weight)


@pytest.mark.parametrize("weight", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(weight, sample_weight):
    found = _loss(VAT(weight), sample_weight=sample_weight)
    assert found == pytest.approx(_paper(weight, sample_weight), rel=1e-5)


def test_default_weight():
    assert _loss(VAT()) == pytest.approx(_paper(1.0), rel=1e-5)


def test_a_scheduled_weight_is_read_at_the_step():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 2.0)
    assert _loss(VAT(schedule), iteration=5) == pytest.approx(_paper(1.5), rel=1e-5)


def test_examples_without_a_label_count_in_the_divergence_only():
    model = forward_passes.model()
    model.compile("sgd", IGNORING)
    cross_entropy, divergence = _terms()
    found = _loss(VAT(2.0), model, y=np.array([2, -1, 1, -1]))
    expected = np.mean(cross_entropy[[0, 2]]) + 2.0 * np.mean(divergence)
    assert found == pytest.approx(expected, rel=1e-5)
    found = _loss(VAT(2.0), model, y=np.full(4, -1))
    assert found == pytest.approx(2.0 * np.mean(divergence), rel=1e-5)


def test_the_prediction_for_clean_examples_is_held_fixed():
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return VAT(20.0).loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    # The derivative along the weights of the last layer scales all logits by one factor.
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))
    expected = forward_passes.slope(lambda scale: _paper(20.0, scale=scale))
    assert found == pytest.approx(expected, rel=1e-4)

    def moving(scale):
        cross_entropy, divergence = _terms(scale, fixed=scale)
        return np.mean(cross_entropy + 20.0 * divergence)

    assert expected != pytest.approx(forward_passes.slope(moving), rel=1e-2)


def test_batch_norm_sees_one_clean_and_one_adversarial_pass():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    VAT().loss(*forward_passes.forward_passes(model))
    expected = 0.9 * 0.1 * forward_passes.X.mean(0) + 0.1 * forward_passes.X_ADV.mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


def test_regularisers_count_once():
    with_penalty = _loss(VAT(), forward_passes.model(penalty=0.1))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - _loss(VAT()) == pytest.approx(penalty, rel=1e-5)


def test_the_attack_is_given_no_label():
    class Asked(kr.attacks.PGD):
        def perturb(self, *request):
            return request

    batch = forward_passes.batch()
    found = VAT().perturb(Asked(), "classifier", batch)
    assert found[:1] + found[2:4] == ("classifier", None, batch.threat_model)
    assert found[1] is batch.x
    assert found[4] is batch.seed
    attack = kr.AdvTrain(objective="vat").attack
    assert type(attack) is kr.attacks.VirtualAdversarial


def _moons(count=400):
    """Two half circles, their classes, and the labels of two points on each."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0.0, np.pi, count // 2)
    first = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    x = np.concatenate([first, np.array([1.0, 0.5]) - first])
    x = (x + 0.05 * rng.normal(size=x.shape)).astype("float32")
    y = np.repeat([0, 1], count // 2)
    given = np.full(count, -1)
    known = [20, count // 2 - 20, count // 2 + 20, count - 20]
    given[known] = y[known]
    return x, y, given


def _accuracy_after_training(objective, num_steps=100):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(50, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), IGNORING)
    x, y, given = _moons()
    callback = kr.AdvTrain(kr.L2(0.3, bounds=None), objective=objective, warmup=0)
    batches = np.tile(x, (num_steps, 1)), np.tile(given, num_steps)
    model.fit(*batches, batch_size=len(x), shuffle=False, verbose=0, callbacks=[callback])
    return np.mean(model.predict(x, batch_size=len(x), verbose=0).argmax(-1) == y)


@pytest.mark.exhaustive
def test_learns_from_examples_without_labels():
    # Warnings are errors, and four labels are too few to show that the model beats chance.
    assert _accuracy_after_training("vat") > 0.99
    assert _accuracy_after_training(VAT(weight=0.0)) < 0.93


@pytest.mark.exhaustive
@backends.with_and_without_xla
@tiers.parametrize("loss", [None, "sparse_categorical_crossentropy"])
def test_labels_of_minus_one_need_a_loss_that_leaves_them_out(jit_compile, loss):
    x, y = linear_fit.data()
    y[[3, 5]] = -1
    model = linear_fit.make_model(loss=loss, jit_compile=jit_compile)
    callback = linear_fit.adv_train(objective="vat", attack=None)
    message = r"need a loss that leaves .*ignore_class=-1\)\. Received: a batch with labels from -1"
    with pytest.raises(ValueError, match=message):
        linear_fit.fit(model, callback, x, y)
    np.testing.assert_array_equal(linear_fit.weights(model), linear_fit.initial_weights())


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_a_fit_without_labels_on_some_batches(jit_compile):
    x, y = linear_fit.data()
    y[8:] = -1
    y[-1] = 1
    model = linear_fit.make_model(loss=IGNORING, jit_compile=jit_compile)
    callback = linear_fit.adv_train(objective="vat", attack=None)
    history = linear_fit.fit(model, callback, x, y).history
    assert np.all(np.isfinite(linear_fit.weights(model)))
    assert np.all(linear_fit.weights(model) != linear_fit.initial_weights())
    # `adv_accuracy` ignores examples without a label; the Keras accuracy counts them as wrong.
    assert history["adv_accuracy"][0] * 9 == pytest.approx(round(history["adv_accuracy"][0] * 9))
    assert history["accuracy"][0] * 22 == pytest.approx(round(history["accuracy"][0] * 22))
    assert history["accuracy"][0] <= 9 / 22 + 1e-6


@pytest.mark.exhaustive
def test_other_objectives_take_no_labels_of_minus_one():
    x, y = linear_fit.data()
    y[3] = -1
    model = linear_fit.make_model(loss=IGNORING)
    with refusals.assert_refused("loss ignores cannot be attacked.*labels from -1 to 2", model):
        linear_fit.fit(model, linear_fit.adv_train(), x, y)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "1"])
def test_wrong_weight(weight):
    refusals.assert_argument_refused(
        VAT, "`weight` must be a number from 0.* Received: weight=", weight=weight
    )
