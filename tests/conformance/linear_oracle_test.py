"""On a linear model the best attack has a closed form; every attack must reach it."""

import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_model
from tests.support import tiers

NORMS = ("L1", "L2", "Linf")
BOUNDS = {"box": (0.0, 1.0), "free": None}
# Long steps forget the random start at once. In L1 a step longer than epsilon would fill more
# coordinates than the best point does.
STEPS = {
    "L1": {"num_steps": 8, "step_size": 0.25 * linear_model.EPSILON["L1"]},
    "L2": {"num_steps": 9, "step_size": 10 * linear_model.EPSILON["L2"]},
    "Linf": {"num_steps": 3, "step_size": linear_model.EPSILON["Linf"]},
}
ITERATIVE = {
    "BIM": kr.attacks.BIM,
    "MomentumPGD": kr.attacks.MomentumPGD,
    "PGD": kr.attacks.PGD,
}

# They have a closed form of their own, in the tests of their modules: attacks with targets or with
# steps that adapt, those that look for the nearest mistake, and those without gradients.
OTHERS = (
    "APGD",
    "AutoAttack",
    "Boundary",
    "CarliniWagner",
    "DDN",
    "DeepFool",
    "EAD",
    "FAB",
    "FMN",
    "GridSearch",
    "HopSkipJump",
    "JSMA",
    "LBFGS",
    "NFGSM",
    "OnePixel",
    "PDPGD",
    "RandomNoise",
    "SPSA",
    "SigmaZero",
    "Square",
    "TargetedAPGD",
    "TargetedFAB",
    "Transfer",
    "VirtualAdversarial",
)


def attack_gap(attack, norm, bounds, model=linear_model.logits):
    """Returns how much of the best margin is missing, what was there to gain, and the attack."""
    x, y = linear_model.examples()
    epsilon = linear_model.EPSILON[norm]
    best = linear_model.best(x, y, norm, epsilon, BOUNDS[bounds])
    x_adv = attack(model, x, y, getattr(kr.threat_models, norm)(epsilon, BOUNDS[bounds]))
    attack_loss = linear_model.margin(best, y)
    return (
        attack_loss - linear_model.margin(x_adv, y),
        attack_loss - linear_model.margin(x, y),
        x_adv,
        best,
    )


def test_every_attack_is_here():
    names = {cls.__name__ for cls in kr.attacks.ALL}
    assert names == {*ITERATIVE, "FGSM", "RandomStartFGSM", *OTHERS}


@tiers.parametrize("bounds", BOUNDS)
@tiers.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ITERATIVE)
def test_iterative_attacks_reach_the_best_point(name, norm, bounds):
    attack = ITERATIVE[name](**STEPS[norm])
    gap, gain, x_adv, best = attack_gap(attack, norm, bounds)
    assert gain.min() > 0.5
    np.testing.assert_allclose(gap, 0.0, rtol=0, atol=1e-5)
    # The margin is flat around its best point on a sphere: 1e-4 beside it costs 1e-7.
    np.testing.assert_allclose(x_adv, best, rtol=0, atol=2e-4 if norm == "L2" else 1e-6)


@tiers.parametrize("bounds", BOUNDS)
def test_a_step_across_the_whole_ball_forgets_the_random_start(bounds):
    attack = kr.attacks.RandomStartFGSM(step_size=2 * linear_model.EPSILON["Linf"])
    gap, _, x_adv, best = attack_gap(attack, "Linf", bounds)
    np.testing.assert_allclose(gap, 0.0, rtol=0, atol=1e-5)
    np.testing.assert_allclose(x_adv, best, rtol=0, atol=1e-6)


@tiers.parametrize(
    ("norm", "bounds"),
    [("L1", "box"), ("L1", "free"), ("L2", "free"), ("Linf", "box"), ("Linf", "free")],
)
def test_fgsm_reaches_the_best_point_in_one_step(norm, bounds):
    gap, _, x_adv, best = attack_gap(kr.attacks.FGSM(), norm, bounds)
    np.testing.assert_allclose(gap, 0.0, rtol=0, atol=1e-5)
    np.testing.assert_allclose(x_adv, best, rtol=0, atol=1e-6)


def test_fgsm_in_l2_loses_what_the_box_cuts_off():
    # One step of length epsilon: what the box stops is not spent elsewhere, so that the result is
    # the clipped step, and no attack of one step along the gradient can do better.
    gap, _, x_adv, _ = attack_gap(kr.attacks.FGSM(), "L2", "box")
    x, y = linear_model.examples()
    ascent = linear_model.ascent(y)
    step = linear_model.EPSILON["L2"] * ascent / np.linalg.norm(ascent, axis=-1, keepdims=True)
    np.testing.assert_allclose(x_adv, np.clip(x + step.reshape(x.shape), 0.0, 1.0), atol=1e-6)
    assert gap.max() > 0.1


@pytest.mark.exhaustive
@tiers.parametrize("loss", ["margin", "cross_entropy"])
def test_every_loss_leads_to_the_best_point(loss):
    attack = kr.attacks.PGD(**STEPS["Linf"], loss=loss)
    gap, *_ = attack_gap(attack, "Linf", "box")
    np.testing.assert_allclose(gap, 0.0, rtol=0, atol=1e-5)


@pytest.mark.exhaustive
def test_a_keras_model_is_attacked_like_a_callable():
    attack = kr.attacks.BIM(**STEPS["L2"])
    gap, *_ = attack_gap(attack, "L2", "box", linear_model.keras_model())
    np.testing.assert_allclose(gap, 0.0, rtol=0, atol=1e-5)


@pytest.mark.exhaustive
def test_more_steps_are_never_worse():
    gaps = [
        attack_gap(kr.attacks.BIM(num_steps=steps, step_size=0.1), "L2", "box")[0]
        for steps in (1, 2, 4, 8, 24)
    ]
    assert np.all(np.diff(gaps, axis=0) <= 1e-6)
    assert np.all(gaps[0] > gaps[-1] + 1e-2)
