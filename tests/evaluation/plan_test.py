import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.plan import Turn
from keras_robust.evaluation.plan import can_measure
from keras_robust.evaluation.plan import doubts_of_attacks
from keras_robust.evaluation.plan import make_turns

BALL = kr.Linf(0.1)
PARTS = kr.threat_models.get({"a": "linf", "b": "l2"})


def _names(turns):
    return [type(turn.attack).__name__ for turn in turns]


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("ball", [BALL, kr.L2(0.1), kr.L1(0.1)])
def test_versions_of_auto_attack_are_its_members(version, ball):
    members = kr.attacks.AutoAttack(version).members(ball, 5)
    for item in (version, kr.attacks.AutoAttack(version), [version]):
        turns = make_turns(item, ball, 5)
        assert [repr(turn.attack) for turn in turns] == [repr(member) for member in members]
        assert {turn.suite for turn in turns} == {f"AutoAttack {version}"}
        assert not any(turn.is_unbounded for turn in turns)


def test_the_number_of_classes_counts():
    assert make_turns("standard", BALL, 5)[1].attack.num_restarts == 4
    assert make_turns("standard", BALL, 100)[1].attack.num_restarts == 9


@pytest.mark.parametrize(
    "num_classes,num_targets,loss", [(2, 1, "margin"), (3, 2, "margin"), (4, 3, "dlr")]
)
def test_where_auto_attack_is_not_defined_its_apgd_runs(num_classes, num_targets, loss):
    turns = make_turns("standard", PARTS, num_classes)
    assert _names(turns) == ["APGD", "TargetedAPGD"]
    assert (turns[1].attack.num_targets, turns[1].attack.loss) == (num_targets, loss)
    assert {turn.suite for turn in turns} == {"APGD"}


def test_a_number_of_features_gets_pgd_on_two_losses():
    turns = make_turns("standard", kr.threat_models.L0(3), 3)
    assert _names(turns) == ["PGD", "PGD"]
    assert [turn.attack.loss for turn in turns] == ["cross_entropy", "margin"]
    for turn in turns:
        assert (turn.suite, turn.attack.num_steps, turn.attack.num_restarts) == ("PGD", 50, 10)


@pytest.mark.parametrize("version", ["plus", "rand"])
def test_other_versions_are_refused_there(version):
    with pytest.raises(ValueError, match="defined for L1, L2 and Linf.*Received: PerInput"):
        make_turns(version, PARTS, 3)


def test_black_box_has_no_gradients():
    turns = make_turns("black_box", BALL, 3)
    assert _names(turns) == ["RandomNoise", "Square"]
    assert {turn.suite for turn in turns} == {"black box"}
    assert not any(turn.attack.uses_gradients for turn in turns)


def test_lists_keep_their_order_and_share_no_examples():
    fgsm = kr.attacks.FGSM()
    turns = make_turns(["pgd", fgsm, "standard"], BALL, 2)
    expected = ["PGD", "FGSM", "APGD", "TargetedAPGD", "TargetedFAB", "Square"]
    assert _names(turns) == expected
    assert turns[1].attack is fgsm
    assert [turn.suite for turn in turns[:3]] == [None, None, "AutoAttack standard"]
    assert _names(make_turns(("pgd", "fgsm"), BALL, 2)) == ["PGD", "FGSM"]
    assert make_turns(fgsm, BALL, 2) == [Turn(fgsm)]


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
    with pytest.raises(ValueError, match=message):
        make_turns(attacks, BALL, 2)


def test_distances_are_of_one_norm_and_one_radius():
    for ball in (BALL, kr.L2(1), kr.L1(1), kr.threat_models.L0(3)):
        assert can_measure(ball)
    assert not can_measure(PARTS)
    assert not can_measure(kr.Linf(np.array([[0.1], [0.2]])))


def test_weak_attacks_and_a_shorter_suite_are_doubtful():
    linf = kr.Linf(0.1)

    def doubts(attacks, ball=linf):
        return doubts_of_attacks(make_turns(attacks, ball, 5), ball)

    assert doubts("standard") == doubts("pgd") == doubts("square") == doubts("black_box") == []
    (weak,) = doubts(["fgsm", "random_noise"])
    assert weak.startswith("Only weak attacks ran, FGSM, RandomNoise: stronger ones break more.")
    assert doubts(["fgsm", "pgd"]) == []
    (short,) = doubts("standard", kr.threat_models.PerInput({"a": kr.Linf(0.1)}))
    assert '"standard" is APGD with two losses, without FAB and Square' in short


def test_a_black_box_suite_knows_one_input_in_three_norms():
    ball = kr.threat_models.PerInput({"a": kr.Linf(0.1)})
    with pytest.raises(ValueError, match="runs Square, .*Received: .* class PerInput$"):
        make_turns("black_box", ball, 5)
