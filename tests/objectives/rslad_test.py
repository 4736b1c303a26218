import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import teachers
from tests.support import tiers


class Asked(kr.attacks.PGD):
    """Attack that returns itself, its arguments, and three zeros instead of a result."""

    def perturb(self, *request):
        return self, request, 0, 0, 0


def _loss(penalty=0.0, **arguments):
    objective = kr.objectives.RSLAD(teachers.model())
    return float(
        objective.loss(*forward_passes.forward_passes(forward_passes.model(penalty), **arguments))
    )


def _divergence(x_adv, scale=1.0):
    """Returns the divergence of the student at `x_adv` from the teacher at `x`, in float64."""
    z_adv = scale * numpy_reference.logits(np.asarray(x_adv, "float64"))
    return forward_passes.kl_divergence(teachers.logits(forward_passes.X), z_adv)


def _paper(scale=1.0, sample_weight=None):
    far, near = (_divergence(x, scale) for x in (forward_passes.X_ADV, forward_passes.X))
    return forward_passes.mean(5.0 / 6.0 * far + 1.0 / 6.0 * near, sample_weight)


@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(sample_weight):
    expected = _paper(sample_weight=sample_weight)
    assert _loss(sample_weight=sample_weight) == pytest.approx(expected, rel=1e-5)


def test_gradients_flow_through_both_streams():
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return kr.objectives.RSLAD(teachers.model()).loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))
    assert found == pytest.approx(forward_passes.slope(_paper), rel=1e-4)


@pytest.mark.exhaustive
def test_labels_do_not_count():
    assert _loss(y=np.array([-1, -1, 0, 1])) == _loss()
    assert kr.objectives.RSLAD.takes_unlabelled
    for attack in (kr.attacks.PGD(num_steps=2), kr.attacks.PGD(num_steps=2, num_restarts=3)):
        found, unlabelled = _perturb(attack), _perturb(attack, y=np.array([-1, -1, -1, -1]))
        np.testing.assert_array_equal(found.x_adv, unlabelled.x_adv)
        assert np.all(np.any(found.x_adv != forward_passes.X, axis=-1))


def test_regularisers_count_once():
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert _loss(penalty=0.1) - _loss() == pytest.approx(penalty, rel=1e-4)


def test_batch_norm_sees_one_clean_and_one_adversarial_pass():
    found = teachers.moving_mean(kr.objectives.RSLAD(teachers.model()))
    expected = 0.9 * 0.1 * forward_passes.X.mean(0) + 0.1 * forward_passes.X_ADV.mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def _perturb(attack, y=forward_passes.Y):
    classifier = models.Classifier(forward_passes.model())
    return kr.objectives.RSLAD(teachers.model()).perturb(
        attack, classifier, forward_passes.batch(y=y)
    )


def test_an_open_loss_becomes_the_divergence_from_a_gaussian_start():
    attack = Asked(num_steps=7, step_size="1/50", num_restarts=2, eot_samples=3)
    used, request, *_ = _perturb(attack)
    changed = {"loss": used.loss, "random_start": "gaussian"}
    assert used.get_config() == {**attack.get_config(), **changed}
    assert attack.loss is None
    np.testing.assert_array_equal(request[1], forward_passes.X)
    assert request[2] is None
    for seed in range(3):
        logits = np.random.default_rng(seed).normal(size=(4, 3)).astype("float32")
        expected = forward_passes.kl_divergence(
            teachers.logits(forward_passes.X), logits.astype("float64")
        )
        np.testing.assert_allclose(used.loss(None, logits), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "kl"])
def test_an_explicit_loss_is_unchanged(loss):
    attack = Asked(loss=loss)
    assert _perturb(attack)[0] is attack


def test_an_attack_without_a_loss_argument_is_used_as_it_is():
    class Fixed(kr.attacks.Attack):
        def perturb(self, *request):
            return "found"

    assert _perturb(Fixed()) == "found"


@tiers.parametrize(
    "attack",
    [
        kr.attacks.PGD(),
        kr.attacks.MomentumPGD(num_steps=5),
        kr.attacks.BIM(num_steps=10),
        kr.attacks.FGSM(),
        kr.attacks.PGD(num_steps=5, num_restarts=2),
    ],
)
def test_the_attack_raises_the_divergence_more_than_noise_does(attack):
    found = _perturb(attack)
    x = forward_passes.batch().x
    noise = [forward_passes.BALL.random_start(x, np.array([7, i], "int32")) for i in range(20)]
    assert np.all(_divergence(found.x_adv) > np.max([_divergence(n) for n in noise], axis=0))
    assert np.all(forward_passes.BALL.contains(found.x_adv, x))


def test_the_teacher_runs_once_per_step(monkeypatch):
    asked, objective = [], kr.objectives.RSLAD(teachers.model())
    ask = objective.teacher_logits
    monkeypatch.setattr(objective, "teacher_logits", lambda *a: asked.append(a) or ask(*a))
    for attack in (kr.attacks.PGD(num_steps=2), kr.attacks.PGD(num_steps=2, loss="margin")):
        found = objective.perturb(
            attack, models.Classifier(forward_passes.model()), forward_passes.batch()
        )
        x_adv = np.asarray(found.x_adv)
        loss = objective.loss(
            *forward_passes.forward_passes(forward_passes.model(), x_adv=x_adv, found=found)
        )
        assert float(loss) == pytest.approx(_loss(x_adv=x_adv), rel=1e-6)
    assert len(asked) == 2


def test_a_target_is_refused():
    attack = kr.attacks.PGD(targeted="least_likely")
    with refusals.assert_refused(r"untargeted attack.*Received: attack=PGD\(.*num_steps=10,"):
        _perturb(attack)
    used, *_ = _perturb(Asked(targeted="least_likely", loss="cross_entropy"))
    assert used.targeted == "least_likely"
