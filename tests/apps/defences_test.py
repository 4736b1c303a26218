import pytest

import keras_robust as kr
from apps import defences
from tests.support import refusals


def test_every_name_makes_a_callback():
    assert len(defences.names()) > 20
    for name in defences.names():
        callback = kr.AdvTrain(**defences.arguments(name))
        assert isinstance(callback.objective, kr.objectives.Objective), name
        assert isinstance(callback.attack, kr.attacks.Attack), name


def test_every_objective_is_there_unless_it_needs_arguments():
    made = {type(defences.arguments(name)["objective"]) for name in defences.names()}
    missing = {cls.__name__ for cls in set(kr.objectives.ALL) - made}
    assert missing == {"ARD", "DefensiveDistillation", "RSLAD"}


@pytest.mark.parametrize(
    ("name", "objective", "attack"),
    [
        ("fast", kr.objectives.Adversarial, kr.attacks.RandomStartFGSM),
        ("fgsm", kr.objectives.Adversarial, kr.attacks.FGSM),
        ("goodfellow", kr.objectives.Mixed, kr.attacks.FGSM),
        ("kannan", kr.objectives.LogitPairing, kr.attacks.PGD),
        ("madry", kr.objectives.Adversarial, kr.attacks.PGD),
        ("n_fgsm", kr.objectives.Adversarial, kr.attacks.NFGSM),
        ("szegedy", kr.objectives.AdversarialPool, kr.attacks.LBFGS),
        ("trades", kr.objectives.TRADES, kr.attacks.PGD),
        ("grad_align", kr.objectives.GradAlign, kr.attacks.FGSM),
        ("gaussian_noise", kr.objectives.GaussianNoise, kr.attacks.PGD),
        ("ibp", kr.objectives.IBP, kr.attacks.PGD),
        ("mtlibp", kr.objectives.MTLIBP, kr.attacks.PGD),
        ("sabr", kr.objectives.SABR, kr.attacks.PGD),
        ("macer", kr.objectives.MACER, kr.attacks.PGD),
        ("smooth_adv", kr.objectives.SmoothAdv, kr.attacks.PGD),
        ("clean_logit_pairing", kr.objectives.CleanLogitPairing, kr.attacks.PGD),
    ],
)
def test_names(name, objective, attack):
    found = defences.arguments(name)
    assert type(found["objective"]) is objective
    assert type(found["attack"]) is attack


def test_trades_with_weight_perturbation_is_that_of_the_authors():
    found = defences.arguments("trades_awp")["objective"]
    assert found.gamma == 0.005
    assert isinstance(found.objective, kr.objectives.TRADES)


def test_attack_and_steps_can_be_chosen():
    found = defences.arguments("trades", "momentumpgd", 3)["attack"]
    assert isinstance(found, kr.attacks.MomentumPGD)
    assert found.num_steps == 3
    assert defences.arguments("madry", None, 4)["attack"].num_steps == 4
    smoothed = defences.arguments("smooth_adv", None, 2)["attack"]
    assert smoothed.num_steps == 2
    assert smoothed.random_start is False


def test_arguments_of_the_objective_can_be_changed():
    assert defences.arguments("trades", changes=["beta=1.5"])["objective"].beta == 1.5
    changes = ["noise_stddev=0.5", "num_samples=4"]
    for name in ("smooth_adv", "macer"):
        found = defences.arguments(name, changes=changes)["objective"]
        assert (found.noise_stddev, found.num_samples) == (0.5, 4)
    found = defences.arguments("awp", changes=["gamma=0.1", "objective=trades"])["objective"]
    assert found.gamma == 0.1
    assert isinstance(found.objective, kr.objectives.TRADES)


def test_unknown_arguments_of_the_objective():
    with refusals.assert_refused(r"TRADES has the arguments \['beta'\].*weight=1"):
        defences.arguments("trades", changes=["weight=1"])


def test_steps_of_an_attack_that_has_none():
    with refusals.assert_refused("Received: --attack=fgsm --num_steps=3"):
        defences.arguments("goodfellow", num_steps=3)
