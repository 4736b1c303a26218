import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.ensemble import PlannedAttack
from keras_robust.evaluation.plan import has_single_norm
from keras_robust.evaluation.plan import plan_attacks
from keras_robust.evaluation.plan import warnings_of_attacks
from tests.support import refusals

BALL = kr.Linf(0.1)
PARTS = kr.threat_models.get({"a": "linf", "b": "l2"})


def _names(plan):
    return [type(planned.attack).__name__ for planned in plan]


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("ball", [BALL, kr.L2(0.1), kr.L1(0.1)])
def test_versions_of_auto_attack_are_its_members(version, ball):
    members = kr.attacks.AutoAttack(version).members(ball, 5)
    for item in (version, kr.attacks.AutoAttack(version), [version]):
        plan = plan_attacks(item, ball, 5)
        assert [repr(planned.attack) for planned in plan] == [repr(member) for member in members]
        assert len(plan) == {"standard": 4, "plus": 6, "rand": 2}[version]
        assert {planned.suite for planned in plan} == {f"AutoAttack {version}"}
        assert not any(planned.is_unbounded for planned in plan)


def test_the_plan_depends_on_the_number_of_classes():
    assert plan_attacks("standard", BALL, 5)[1].attack.num_restarts == 4
    assert plan_attacks("standard", BALL, 100)[1].attack.num_restarts == 9


@pytest.mark.parametrize(
    "num_classes,num_targets,loss", [(2, 1, "margin"), (3, 2, "margin"), (4, 3, "dlr")]
)
def test_unsupported_threat_models_get_the_apgd_of_auto_attack(num_classes, num_targets, loss):
    plan = plan_attacks("standard", PARTS, num_classes)
    assert _names(plan) == ["APGD", "TargetedAPGD"]
    assert (plan[1].attack.num_targets, plan[1].attack.loss) == (num_targets, loss)
    assert {planned.suite for planned in plan} == {"APGD"}


def test_l0_gets_pgd_on_two_losses():
    plan = plan_attacks("standard", kr.threat_models.L0(3), 3)
    assert _names(plan) == ["PGD", "PGD"]
    assert [planned.attack.loss for planned in plan] == ["cross_entropy", "margin"]
    for planned in plan:
        assert (planned.suite, planned.attack.num_steps, planned.attack.num_restarts) == (
            "PGD",
            50,
            10,
        )


@pytest.mark.parametrize("version", ["plus", "rand"])
def test_other_versions_are_refused_for_unsupported_threat_models(version):
    with pytest.raises(ValueError, match="defined for L1, L2 and Linf.*Received: PerInput"):
        plan_attacks(version, PARTS, 3)


def test_black_box_has_no_gradients():
    plan = plan_attacks("black_box", BALL, 3)
    assert _names(plan) == ["RandomNoise", "Square"]
    assert {planned.suite for planned in plan} == {"black box"}
    assert not any(planned.attack.uses_gradients for planned in plan)


def test_lists_keep_their_order_and_share_no_examples():
    fgsm = kr.attacks.FGSM()
    plan = plan_attacks(["pgd", fgsm, "standard"], BALL, 2)
    expected = ["PGD", "FGSM", "APGD", "TargetedAPGD", "TargetedFAB", "Square"]
    assert _names(plan) == expected
    assert plan[1].attack is fgsm
    assert [planned.suite for planned in plan[:3]] == [None, None, "AutoAttack standard"]
    assert _names(plan_attacks(("pgd", "fgsm"), BALL, 2)) == ["PGD", "FGSM"]
    assert plan_attacks(fgsm, BALL, 2) == [PlannedAttack(fgsm)]


@pytest.mark.parametrize(
    "attacks,message",
    [
        ([], r"at least one attack. Received: attacks=\[\]"),
        ("standrad", "Unknown attack.*Received: 'standrad'"),
        (["pgd", 3], "Received: 3"),
        (kr.attacks.PGD(targeted=True), "no target labels.*Received: PGD"),
        (kr.attacks.NFGSM(), "may leave the ball.*Received: NFGSM"),
    ],
)
def test_wrong_attacks(attacks, message):
    with refusals.assert_refused(message):
        plan_attacks(attacks, BALL, 2)


def test_distances_need_one_norm_and_one_radius():
    for ball in (BALL, kr.L2(1), kr.L1(1), kr.threat_models.L0(3)):
        assert has_single_norm(ball)
    assert not has_single_norm(PARTS)
    assert not has_single_norm(kr.Linf(np.array([[0.1], [0.2]])))


def test_weak_attacks_and_a_shorter_suite_warn():
    linf = kr.Linf(0.1)

    def report_warnings(attacks, ball=linf):
        return warnings_of_attacks(plan_attacks(attacks, ball, 5), ball)

    assert (
        report_warnings("standard")
        == report_warnings("pgd")
        == report_warnings("square")
        == report_warnings("black_box")
        == []
    )
    (weak,) = report_warnings(["fgsm", "random_noise"])
    assert weak.startswith("Only weak attacks ran, FGSM, RandomNoise: stronger ones break more.")
    assert report_warnings(["fgsm", "pgd"]) == []
    (short,) = report_warnings("standard", kr.threat_models.PerInput({"a": kr.Linf(0.1)}))
    assert '"standard" runs APGD with two losses, without FAB and Square' in short


def test_the_black_box_suite_supports_one_input_in_three_norms():
    ball = kr.threat_models.PerInput({"a": kr.Linf(0.1)})
    with pytest.raises(ValueError, match="runs Square, .*Received: .* class PerInput$"):
        plan_attacks("black_box", ball, 5)
