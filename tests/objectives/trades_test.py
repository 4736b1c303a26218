import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust import training
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals

BATCH = training.Batch("x", "y", "weight", "ball", "iteration", "seed")


class Asked(kr.attacks.PGD):
    """Attack that returns itself and its arguments instead of adversarial examples."""

    def perturb(self, *request):
        return self, request


def _loss(beta, **arguments):
    return float(
        kr.objectives.TRADES(beta).loss(
            *forward_passes.forward_passes(forward_passes.model(), **arguments)
        )
    )


def _paper(scale=1.0, beta=6.0, sample_weight=None):
    """TRADES with the last layer scaled."""
    z, z_adv = (
        scale * numpy_reference.logits(x.astype("float64"))
        for x in (forward_passes.X, forward_passes.X_ADV)
    )
    terms = forward_passes.cross_entropy(z) + beta * forward_passes.kl_divergence(z, z_adv)
    return forward_passes.mean(terms, sample_weight)


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(beta, sample_weight):
    expected = _paper(beta=beta, sample_weight=sample_weight)
    assert _loss(beta, sample_weight=sample_weight) == pytest.approx(expected, rel=1e-5)


def test_default_beta():
    found = kr.objectives.TRADES().loss(*forward_passes.forward_passes(forward_passes.model()))
    assert float(found) == pytest.approx(_paper(beta=6.0), rel=1e-5)


def test_scaled_weights_scale_the_loss():
    once = _loss(6.0, sample_weight=forward_passes.SAMPLE_WEIGHT)
    assert _loss(6.0, sample_weight=3 * forward_passes.SAMPLE_WEIGHT) == pytest.approx(
        3 * once, rel=1e-6
    )


def test_without_a_perturbation_it_is_the_clean_loss():
    clean = forward_passes.model().evaluate(forward_passes.X, forward_passes.Y, verbose=0)
    assert _loss(100.0, x_adv=forward_passes.X) == pytest.approx(clean, rel=1e-6)


def test_regularisers_count_once():
    with_penalty = kr.objectives.TRADES(2.0).loss(
        *forward_passes.forward_passes(forward_passes.model(penalty=0.1))
    )
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss(2.0) == pytest.approx(penalty, rel=1e-5)


def test_gradients_flow_through_both_branches():
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return kr.objectives.TRADES(20.0).loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    # The derivative along the weights of the last layer scales all logits by one factor.
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))
    expected = forward_passes.slope(lambda scale: _paper(scale, beta=20.0))
    assert found == pytest.approx(expected, rel=1e-4)


def test_batch_norm_sees_one_clean_and_one_adversarial_pass():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kr.objectives.TRADES().loss(*forward_passes.forward_passes(model))
    expected = 0.9 * 0.1 * forward_passes.X.mean(0) + 0.1 * forward_passes.X_ADV.mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


def test_an_open_loss_becomes_the_divergence_from_a_gaussian_start():
    attack = Asked(num_steps=7, step_size="1/50", num_restarts=2, eot_samples=3)
    used, request = kr.objectives.TRADES().perturb(attack, "classifier", BATCH)
    expected = {**attack.get_config(), "loss": "kl", "random_start": "gaussian"}
    assert used.get_config() == expected
    assert request == ("classifier", "x", "y", "ball", "seed")
    assert attack.loss is None


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "kl"])
def test_an_explicit_loss_is_unchanged(loss):
    attack = Asked(loss=loss)
    used, request = kr.objectives.TRADES().perturb(attack, "classifier", BATCH)
    assert used is attack
    assert request == ("classifier", "x", "y", "ball", "seed")


def test_an_attack_without_a_loss_argument_is_used_as_it_is():
    class Fixed(kr.attacks.Attack):
        def perturb(self, *request):
            return request

    request = kr.objectives.TRADES().perturb(Fixed(), "classifier", BATCH)
    assert request == ("classifier", "x", "y", "ball", "seed")


@pytest.mark.parametrize("attack", [kr.attacks.FGSM(), kr.attacks.BIM(num_steps=3)])
def test_attacks_that_start_at_the_example_are_refused(attack):
    with pytest.raises(ValueError, match=r"its attack needs a random start.*Received: attack=\w+"):
        kr.objectives.TRADES().perturb(attack, None, forward_passes.batch())


@pytest.mark.parametrize("attack", [kr.attacks.PGD(), kr.attacks.MomentumPGD(num_steps=5)])
def test_the_attack_raises_the_divergence_more_than_noise_does(attack):
    classifier = models.Classifier(forward_passes.model())
    x, ball = keras.ops.convert_to_tensor(forward_passes.X), kr.threat_models.Linf(0.1)
    found = kr.objectives.TRADES().perturb(attack, classifier, forward_passes.batch(ball=ball))

    def divergence(x_adv):
        z, z_adv = (numpy_reference.logits(np.asarray(a, "float64")) for a in (x, x_adv))
        return forward_passes.kl_divergence(z, z_adv)

    noise = [ball.random_start(x, np.array([7, i], "int32")) for i in range(20)]
    assert np.all(divergence(found.x_adv) > 2 * np.mean([divergence(n) for n in noise], axis=0))
    assert np.all(ball.contains(found.x_adv, x))


@pytest.mark.parametrize("beta", [-1.0, float("nan"), "6"])
def test_wrong_beta(beta):
    message = "`beta` must be a number from 0 to inf, or a LearningRateSchedule. Received: beta="
    refusals.assert_argument_refused(kr.objectives.TRADES, message, beta=beta)


@pytest.mark.parametrize("attack", [kr.attacks.RandomStartFGSM(), kr.attacks.NFGSM()])
def test_attacks_of_one_step_from_a_random_start_are_given_the_divergence(attack):
    classifier = models.Classifier(forward_passes.model())
    found = kr.objectives.TRADES().perturb(attack, classifier, forward_passes.batch())
    expected = kr.objectives.TRADES().perturb(
        attack.clone(loss="kl"), classifier, forward_passes.batch()
    )
    np.testing.assert_array_equal(found.x_adv, expected.x_adv)
    other = attack.perturb(
        classifier,
        *forward_passes.batch()[:2],
        forward_passes.BALL,
        keras.ops.convert_to_tensor(forward_passes.SEED),
    )
    assert np.any(np.asarray(found.x_adv) != np.asarray(other.x_adv))
