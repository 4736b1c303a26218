import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.objectives import SmoothAdv
from keras_robust.objectives.noisy_copies import draw_noise
from tests.support import backends
from tests.support import forward_passes
from tests.support import numpy_reference
from tests.support import refusals

BALL = kr.L2(0.4, (0.0, 1.0))


def _noise(stddev, num_samples, **circumstances):
    """The noise of each copy in float64, `(n, num_samples, d)`."""
    noise = np.asarray(
        draw_noise(forward_passes.batch(**circumstances), stddev, num_samples), "float64"
    )
    return noise.reshape(len(forward_passes.X), num_samples, -1)


def _paper(stddev, num_samples, sample_weight=None):
    """Returns the mean loss over the copies, the first of which are `X_ADV`."""
    noise = _noise(stddev, num_samples)
    x = forward_passes.X_ADV.astype("float64")[:, None] + noise - noise[:, :1]
    losses = [
        forward_passes.cross_entropy(numpy_reference.logits(x[:, copy]))
        for copy in range(num_samples)
    ]
    return forward_passes.mean(np.mean(losses, axis=0), sample_weight)


def _loss(objective, model=None, **arguments):
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_the_loss_is_the_mean_over_copies_with_the_same_noise(num_samples, sample_weight):
    found = _loss(SmoothAdv(0.3, num_samples), sample_weight=sample_weight)
    assert found == pytest.approx(_paper(0.3, num_samples, sample_weight), rel=1e-5)


def test_defaults_and_a_schedule():
    assert _loss(SmoothAdv()) == pytest.approx(_paper(0.25, 2), rel=1e-5)
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.6)
    assert _loss(SmoothAdv(schedule, 3), iteration=5) == pytest.approx(_paper(0.3, 3), rel=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
def test_every_reduction_is_over_examples_and_not_over_copies(reduction):
    model = forward_passes.model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile("sgd", loss)
    weight = forward_passes.SAMPLE_WEIGHT
    found = _loss(SmoothAdv(0.3, 3), model, sample_weight=weight)
    size = {"sum": 1.0, "mean_with_sample_weight": weight.sum()}.get(reduction, len(weight))
    assert found == pytest.approx(_paper(0.3, 3, weight) * len(weight) / size, rel=1e-5)


def test_regularisers_count_once():
    for objective in (SmoothAdv(0.3, 1), SmoothAdv(0.3, 3)):
        with_penalty, without = (
            _loss(objective, forward_passes.model(size)) for size in (0.1, 0.0)
        )
        expected = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
        assert with_penalty - without == pytest.approx(expected, rel=1e-5)


def test_batch_norm_sees_one_pass_of_all_copies():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((6,)), norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    clean, adversarial = forward_passes.forward_passes(model)
    SmoothAdv(0.3, 3).loss(clean, adversarial)
    noise = _noise(0.3, 3)
    x = forward_passes.X_ADV[:, None] + noise - noise[:, :1]
    np.testing.assert_allclose(norm.moving_mean, 0.1 * x.mean(axis=(0, 1)), rtol=1e-4)
    assert not clean.was_used and not adversarial.was_used


def _smoothed_loss(x, noise):
    """`-log mean_k p_y(x + n_k)` of each example."""
    predictions = [
        np.exp(-forward_passes.cross_entropy(numpy_reference.logits(x + noise[:, copy])))
        for copy in range(noise.shape[1])
    ]
    return -np.log(np.mean(predictions, axis=0))


def _gradient(x, noise, size=1e-6):
    """Its gradient, by central differences in float64."""
    steps = size * np.eye(x.shape[1])
    up, down = ([_smoothed_loss(x + sign * one, noise) for one in steps] for sign in (1, -1))
    return (np.array(up) - np.array(down)).T / (2.0 * size)


def _attack(noise, num_steps):
    x = forward_passes.X.astype("float64")
    x_adv = x
    for _ in range(num_steps):
        slope = _gradient(x_adv, noise)
        moved = x_adv + 2.5 * 0.4 / num_steps * slope / np.linalg.norm(slope, axis=1)[:, None]
        x_adv = numpy_reference.project(moved, x, "L2", 0.4, (0.0, 1.0))
    return x_adv


@pytest.mark.parametrize(("stddev", "num_samples"), [(0.5, 4), (0.2, 1)])
def test_the_attack_climbs_the_loss_of_the_mean_prediction(stddev, num_samples):
    objective = SmoothAdv(stddev, num_samples)
    attack = objective.default_attack.clone(num_steps=3)
    batch = forward_passes.batch(ball=BALL)
    found = objective.perturb(attack, models.Classifier(forward_passes.model()), batch)
    noise = _noise(stddev, num_samples)
    expected = _attack(noise, 3) + noise[:, 0]
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=2e-4)
    # Not the mean of the losses: with one copy both are the same.
    swapped = _attack(noise[:, :1], 3) + noise[:, 0]
    assert (np.abs(swapped - expected).max() < 1e-6) == (num_samples == 1)


def test_the_default_attack_starts_at_the_example():
    attack = kr.AdvTrain(kr.L2(0.5), objective="smooth_adv").attack
    assert type(attack) is kr.attacks.PGD
    assert attack.random_start is False
    assert attack.num_steps == 10


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_the_attack_knows_the_compute_dtype(dtype):
    class Asked(kr.attacks.Attack):
        def perturb(self, classifier, x, y, threat_model, seed):
            self.request = classifier, x, y, threat_model, seed
            return kr.attacks.AttackResult.unattacked(x)

    keras.config.set_dtype_policy(dtype)
    try:
        model = forward_passes.model()
    finally:
        keras.config.set_dtype_policy("float32")
    attack, batch = Asked(), forward_passes.batch(ball=BALL)
    SmoothAdv().perturb(attack, models.Classifier(model), batch)
    assert attack.request[0].computes_in_float16 == (dtype == "mixed_float16")
    assert attack.request[1:] == (batch.x, batch.y, batch.threat_model, batch.seed)


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_a_fit_on_images_trains_what_smoothing_certifies(jit_compile):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(150, 2, 2, 1)).astype("float32")
    y = (x[:, 0].sum(axis=(1, 2)) > x[:, 1].sum(axis=(1, 2))).astype("int32")
    layers = [keras.layers.Conv2D(4, 2, activation="relu"), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((2, 2, 1)), *layers, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"], jit_compile=jit_compile)
    callback = kr.AdvTrain(kr.L2(0.1), objective=SmoothAdv(0.1, 3))
    history = model.fit(x, y, epochs=9, verbose=0, callbacks=[callback]).history
    assert set(history) == {"accuracy", "adv_accuracy", "loss"}
    assert history["accuracy"][-1] > 0.9
    assert 0.6 < history["adv_accuracy"][-1] < history["accuracy"][-1]
    found = kr.certification.Smoothing(0.1, num_samples=500).certify(model, x[:10])
    assert np.mean(found.predictions == y[:10]) > 0.7


def test_wrong_arguments():
    refusals.assert_argument_refused(
        SmoothAdv, "`noise_stddev` must be a number from 0.*Received", noise_stddev=-0.1
    )
    with refusals.assert_refused("`num_samples` must be an int >= 1. Received: 0"):
        SmoothAdv(0.1, 0)
    with pytest.raises(ValueError, match="SmoothAdv runs the model on noisy copies"):
        SmoothAdv().check(
            forward_passes.model(), kr.threat_models.AtLayer("dense", kr.L2(1.0, None))
        )
    model = forward_passes.model()
    model.compile("sgd", "mse")
    perturb = SmoothAdv().perturb
    with pytest.raises(ValueError, match="Expected one classification output"):
        perturb(kr.attacks.FGSM(), models.Classifier(model), forward_passes.batch())
