import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals

SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.0, 7.0])


class Asked(kr.attacks.PGD):
    """Attack that returns itself and its arguments instead of adversarial examples."""

    def perturb(self, *request):
        return self, request


def _loss(beta, **arguments):
    return float(
        kr.objectives.MART(beta).loss(
            *forward_passes.forward_passes(forward_passes.model(), **arguments)
        )
    )


def _terms(z, z_adv, y, beta):
    """The loss of each example, as the authors write it, from logits in float64."""
    p, p_adv = (np.exp(forward_passes.log_softmax(each)) for each in (z, z_adv))
    rows = np.arange(len(y))
    order = np.argsort(p_adv, axis=-1)
    wrong = np.where(order[:, -1] == y, order[:, -2], order[:, -1])
    boosted = -np.log(p_adv[rows, y]) - np.log(1.0001 - p_adv[rows, wrong] + 1e-12)
    divergence = np.sum(p * (np.log(p) - np.log(p_adv + 1e-12)), axis=-1)
    return boosted + beta * divergence * (1.0000001 - p[rows, y])


def _paper(scale=1.0, beta=5.0, sample_weight=None):
    """MART with the last layer scaled."""
    logits = [
        scale * numpy_reference.logits(a.astype("float64"))
        for a in (forward_passes.X, forward_passes.X_ADV)
    ]
    return forward_passes.mean(_terms(*logits, forward_passes.Y, beta), sample_weight)


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(beta, sample_weight):
    expected = _paper(beta=beta, sample_weight=sample_weight)
    assert _loss(beta, sample_weight=sample_weight) == pytest.approx(expected, rel=1e-5)


def test_the_examples_have_right_and_wrong_predictions():
    # Otherwise the choice of the strongest wrong class would not be tested.
    z = numpy_reference.logits(forward_passes.X_ADV.astype("float64"))
    assert 0 < np.sum(z.argmax(-1) == forward_passes.Y) < len(forward_passes.Y)


def test_default_beta():
    found = kr.objectives.MART().loss(*forward_passes.forward_passes(forward_passes.model()))
    assert float(found) == pytest.approx(_paper(beta=5.0), rel=1e-5)


def test_beta_may_be_a_schedule():
    assert _loss(SCHEDULE, iteration=2) == pytest.approx(_paper(beta=0.0), rel=1e-5)
    assert _loss(SCHEDULE, iteration=9) == pytest.approx(_paper(beta=7.0), rel=1e-5)


def test_scaled_weights_scale_the_loss():
    once = _loss(6.0, sample_weight=forward_passes.SAMPLE_WEIGHT)
    assert _loss(6.0, sample_weight=3 * forward_passes.SAMPLE_WEIGHT) == pytest.approx(
        3 * once, rel=1e-6
    )


def test_without_a_perturbation_beta_has_no_effect():
    assert _loss(100.0, x_adv=forward_passes.X) == pytest.approx(
        _loss(0.0, x_adv=forward_passes.X), rel=1e-6
    )


def test_regularisers_count_once():
    with_penalty = kr.objectives.MART(2.0).loss(
        *forward_passes.forward_passes(forward_passes.model(penalty=0.1))
    )
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss(2.0) == pytest.approx(penalty, rel=1e-5)


def test_gradients_flow_through_both_branches():
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return kr.objectives.MART(20.0).loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    # The derivative along the weights of the last layer scales all logits by one factor.
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))
    expected = forward_passes.slope(lambda scale: _paper(scale, beta=20.0))
    assert found == pytest.approx(expected, rel=1e-4)


def test_one_hot_labels():
    model = forward_passes.model()
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    rows = np.eye(3, dtype="float32")[forward_passes.Y]
    found = kr.objectives.MART().loss(*forward_passes.forward_passes(model, y=rows))
    assert float(found) == pytest.approx(_paper(), rel=1e-5)


@pytest.mark.parametrize("from_logits", [True, False])
def test_one_logit_is_two_classes(from_logits):
    kernel, y = np.linspace(-2.0, 2.0, 6)[:, None], np.array([1, 0, 0, 1])
    head = keras.layers.Dense(1, None if from_logits else "sigmoid", use_bias=False)
    model = keras.Sequential([keras.Input((numpy_reference.FEATURES,)), head])
    head.set_weights([kernel])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=from_logits))
    labels = y[:, None].astype("float32")
    found = kr.objectives.MART(3.0).loss(*forward_passes.forward_passes(model, y=labels))
    logits = [
        a.astype("float64") @ np.hstack([0 * kernel, kernel])
        for a in (forward_passes.X, forward_passes.X_ADV)
    ]
    assert float(found) == pytest.approx(np.mean(_terms(*logits, y, 3.0)), rel=1e-5)


def test_extreme_logits_are_finite():
    model = forward_passes.model()
    model.layers[-1].kernel.assign(1e4 * model.layers[-1].kernel)

    def compute():
        return kr.objectives.MART().loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, model.trainable_weights)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in slopes)


def test_batch_norm_sees_one_adversarial_and_one_clean_pass():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kr.objectives.MART().loss(*forward_passes.forward_passes(model))
    expected = 0.9 * 0.1 * forward_passes.X_ADV.mean(0) + 0.1 * forward_passes.X.mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


def _asked(attack):
    batch = forward_passes.batch()
    used, request = kr.objectives.MART().perturb(attack, "classifier", batch)
    assert request == ("classifier", batch.x, batch.y, batch.threat_model, batch.seed)
    return used


def test_an_attack_without_a_loss_starts_near_the_example():
    attack = Asked(num_steps=7, step_size="1/50", num_restarts=2, eot_samples=3)
    assert _asked(attack).get_config() == {**attack.get_config(), "random_start": "gaussian"}
    assert attack.random_start is True


@pytest.mark.parametrize(
    "arguments",
    [{"loss": "cross_entropy"}, {"loss": "dlr"}, {"random_start": False}],
)
def test_any_other_attack_is_used_as_it_is(arguments):
    attack = Asked(**arguments)
    assert _asked(attack) is attack


def test_an_attack_whose_start_is_fixed_is_used_as_it_is():
    class Fixed(kr.attacks.RandomStartFGSM):
        def perturb(self, *request):
            return self, request

    attack = Fixed()
    assert _asked(attack) is attack


def test_a_regression_is_refused():
    model = keras.Sequential([keras.Input((numpy_reference.FEATURES,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    y = forward_passes.Y.astype("float32")[:, None]
    with refusals.assert_refused("Expected one classification output", model):
        model.fit(
            forward_passes.X, y, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1), objective="mart")]
        )


@pytest.mark.parametrize("beta", [-1.0, float("nan"), "6"])
def test_wrong_beta(beta):
    refusals.assert_argument_refused(
        kr.objectives.MART, "`beta` must be a number from 0 to inf.*Received: beta=", beta=beta
    )
