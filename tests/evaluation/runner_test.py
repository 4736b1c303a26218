import dataclasses

import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.ensemble import PlannedAttack
from keras_robust.attacks.worst_case import WorstCase
from keras_robust.evaluation.checkpoint import Checkpoint
from keras_robust.evaluation.reports.proof_report import ProofReport
from keras_robust.evaluation.runner import AttackRunner
from tests.support.told import BALL
from tests.support.told import Fixed
from tests.support.told import FixedNearest
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model

LOGITS = np.asarray(model(X))


def _runner(plan, network=model, ball=BALL, seed=0):
    worst = WorstCase(X, Y, LOGITS, measures=True)
    runner = AttackRunner(network, worst, ball, batch_size=2, seed=seed)
    runner.run(plan, Checkpoint(None, {}, {}), verbose=False)
    return runner


def test_members_of_a_suite_run_on_robust_examples_and_others_on_all():
    first = Fixed([0.0, -0.3, 0.0, 0.0, 0.0], queries=[1, 2, 3, 4, 5])
    second = Fixed([0.0, -0.3, -0.3, 0.0, 0.0], queries=[10, 20, 30, 40, 50])
    members = _runner([PlannedAttack(first, "suite"), PlannedAttack(second, "suite")]).reports
    assert [report.num_attacked for report in members] == [4, 3]
    assert [report.queries for report in members] == [1 + 2 + 3 + 4, 10 + 30 + 40]
    # The second attack did not run on all correct examples, so it has no accuracy of its own.
    assert [report.accuracy for report in members] == [pytest.approx(0.6), None]
    assert [report.accuracy_so_far for report in members] == pytest.approx([0.6, 0.4])
    np.testing.assert_array_equal(members[1].robust, [1, 0, 0, 1, 0])
    others = _runner([PlannedAttack(second), PlannedAttack(first)]).reports
    assert [report.num_attacked for report in others] == [4, 4]
    assert [report.queries for report in others] == [100, 10]
    assert [report.accuracy for report in others] == pytest.approx([0.4, 0.6])
    assert [report.accuracy_so_far for report in others] == pytest.approx([0.4, 0.4])
    np.testing.assert_array_equal(others[1].robust, [1, 0, 1, 1, 0])


def test_a_member_without_robust_examples_does_not_run():
    falls = Fixed([-0.5, -0.3, -0.3, 0.5, 0.0])
    reports = _runner(
        [PlannedAttack(falls, "suite"), PlannedAttack(falls, "suite")], ball=kr.Linf(0.5)
    ).reports
    assert [report.num_attacked for report in reports] == [4, 0]
    assert [report.queries for report in reports] == [4, 0]
    assert [report.accuracy_so_far for report in reports] == [0.0, 0.0]


@pytest.mark.parametrize("claim", [False, True])
def test_reported_success_is_verified(claim):
    report = _runner([PlannedAttack(Fixed([-0.3, -0.3, 0.01, 0.0, 0.0], claim=claim))]).reports[0]
    np.testing.assert_array_equal(report.robust, [1, 0, 1, 1, 0])


@pytest.mark.parametrize("far", [-0.31, np.nan])
def test_infeasible_points_do_not_count(far):
    left, kept = Fixed([0.0, far, far, 0.0, 0.0], name="a"), Fixed([0.0, 0.0, -0.3, 0.0, 0.0])
    runner = _runner([PlannedAttack(left), PlannedAttack(kept)])
    np.testing.assert_array_equal(runner.reports[0].robust, [1, 1, 1, 1, 0])
    assert runner.reports[1].accuracy_so_far == pytest.approx(0.6)
    assert runner.warnings == [
        "Fixed left the threat model on 2 examples, which are counted as not broken."
    ]
    np.testing.assert_allclose(runner.worst.x_adv[:, 0], X[:, 0] - [0, 0, 0.3, 0, 0], rtol=1e-6)


def test_the_box_is_part_of_the_threat_model():
    runner = _runner([PlannedAttack(Fixed([0.2, 0, 0, 0, 0]))], ball=kr.Linf(0.3, (0.0, 0.95)))
    assert "on 1 examples" in runner.warnings[0]


def test_a_minimum_norm_attack_may_leave_the_ball(search_alone):
    runner = _runner([PlannedAttack(FixedNearest([-0.5, -0.25, 0.0, 0.0, 0.0]), is_unbounded=True)])
    assert runner.warnings == []
    np.testing.assert_allclose(runner.worst.distances, [0.5, 0.25, np.inf, np.inf, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(runner.reports[0].robust, [1, 0, 1, 1, 0])


def test_one_radius_for_each_example():
    worst = WorstCase(X, Y, LOGITS, measures=False)
    ball = kr.Linf(np.array([[0.1], [0.1], [0.3], [0.1], [0.1]]))
    runner = AttackRunner(model, worst, ball, batch_size=2, seed=0)
    plan = [PlannedAttack(Fixed([0.0, -0.25, -0.28, 0.0, 0.0]), "suite") for _ in range(2)]
    runner.run(plan, Checkpoint(None, {}, {}), verbose=False)
    np.testing.assert_array_equal(worst.robust, [1, 1, 0, 1, 0])
    assert (
        runner.warnings
        == ["Fixed left the threat model on 1 examples, which are counted as not broken."] * 2
    )


def test_zero_gradient_is_a_share_of_the_correct_examples():
    has_zero_gradient = [True, False, False, False, True]
    runner = _runner(
        [PlannedAttack(Fixed([0.0, -0.3, 0, 0, 0], has_zero_gradient=has_zero_gradient), "suite")]
        * 2
    )
    # One of four correct examples; the second attack runs on three of them.
    assert [report.zero_gradient for report in runner.reports] == [0.25, 0.25]
    silent = _runner([PlannedAttack(Fixed([0.0] * 5, has_zero_gradient=[False] * 4 + [True]))])
    assert silent.reports[0].zero_gradient == 0.0


@pytest.mark.exhaustive
def test_every_attack_has_its_own_random_numbers():
    attack = kr.attacks.PGD(num_steps=1, step_size=1e-6)
    starts = []
    for plan, seed in (([attack], 3), ([attack, attack], 3), ([attack], 4)):
        runner = _runner(
            [PlannedAttack(Fixed([0.0] * 5))] * 0 + [PlannedAttack(one) for one in plan], seed=seed
        )
        starts.append(runner.worst.x_adv)
    # The second attack found stronger points than the first.
    assert np.any(starts[0] != starts[1]) and np.any(starts[0] != starts[2])


def test_accuracy_so_far_is_the_worst_case_up_to_each_attack():
    x = np.random.default_rng(0).uniform(size=(50, 3)).astype("float32")
    worst = WorstCase(x, np.argmax(x, axis=-1), x, measures=False)
    runner = AttackRunner(lambda x: 1.0 * x, worst, kr.Linf(0.1), batch_size=50, seed=0)
    plan = [
        PlannedAttack(kr.attacks.FGSM()),
        PlannedAttack(kr.attacks.PGD(num_steps=3, loss="margin")),
    ]
    runner.run(plan, Checkpoint(None, {}, {}), verbose=False)
    first, second = runner.reports
    assert first.accuracy_so_far == first.accuracy
    # The step lowers the true logit, which is the largest, and raises the others, within the box.
    others, largest = np.sort(x, axis=-1)[:, -2:].T
    is_robust = np.maximum(largest - 0.1, 0.0) > np.minimum(others + 0.1, 1.0)
    assert first.accuracy == pytest.approx(np.mean(is_robust))
    assert second.accuracy_so_far == worst.robust.mean() <= second.accuracy


def test_the_bar_shows_the_accuracy_so_far(capsys):
    worst = WorstCase(X, Y, LOGITS, measures=False)
    runner = AttackRunner(model, worst, BALL, batch_size=2, seed=0)
    attack = Fixed([0.0, -0.3, 0.0, 0.0, 0.0], claim=False)
    runner.run([PlannedAttack(attack)], Checkpoint(None, {}, {}), verbose=True)
    with_progress = capsys.readouterr().out
    assert with_progress.startswith("[1/1] Fixed, 4 examples\n") and "4/4" in with_progress
    # The attack breaks nothing, so four of five examples stay correct.
    assert "robust: 0.8" in with_progress


def _worst(**changes):
    state = WorstCase(X, Y, LOGITS, measures=True).state()
    return {f"worst_{name}": array for name, array in {**state, **changes}.items()}


def _report(**changes):
    return {**kr.evaluation.AttackReport.of(kr.attacks.FGSM()).to_dict(), **changes}


def _proof():
    numbers = {"num_examples": 4, "num_proved": 0, "num_broken": 0, "seconds": 0.5}
    report = ProofReport.of(kr.certification.Lipschitz(), **numbers)
    return dataclasses.asdict(report)


WRONG = {
    "no state": (5, _worst()),
    "no reports": ({"proofs": [], "seconds": 0.0}, _worst()),
    "no proofs": ({"reports": [], "seconds": 0.0}, _worst()),
    "a proof of something else": ({"proofs": [{"a": 1}]}, _worst()),
    "more proofs than certificates": ({"proofs": [_proof()]}, _worst()),
    "a proved clean mistake": ({}, _worst(proved=np.ones(len(Y), bool))),
    "a report of something else": ({"reports": [{"a": 1}]}, {**_worst(), "robust_0": Y > 0}),
    "a report without its array": ({"reports": [_report()]}, _worst()),
    "more reports than attacks": (
        {"reports": [_report(), _report()]},
        {**_worst(), "robust_0": Y > 0, "robust_1": Y > 0},
    ),
    "no array": ({}, {}),
    "a robust clean mistake": ({}, _worst(robust=np.ones(len(Y), bool))),
    "other examples": ({}, _worst(robust=np.zeros(len(Y) - 1, bool))),
    "another dtype": ({}, _worst(distances=np.zeros(len(Y), "complex64"))),
    "half a run": ({}, {**_worst(), "run_todo": np.arange(5)}),
    "another run": ({}, {**_worst(), "run_restart": Y, "run_start": Y, "run_todo": Y}),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_incomplete_state_is_refused_and_changes_nothing(tmp_path, name):
    state, arrays = WRONG[name]
    if isinstance(state, dict) and name not in ("no reports", "no proofs"):
        state = {"proofs": [], "reports": [], "seconds": 0.0, **state}
    Checkpoint(tmp_path / "state.npz", {}, {}).save(state, arrays)
    worst = WorstCase(X, Y, LOGITS, measures=True)
    runner = AttackRunner(model, worst, BALL, batch_size=2, seed=0)
    with pytest.raises(
        ValueError, match="Expected a checkpoint of `evaluate` at .*delete the file"
    ):
        runner.run(
            [PlannedAttack(Fixed([0.0] * 5))], Checkpoint(tmp_path / "state.npz", {}, {}), False
        )
    np.testing.assert_array_equal(worst.robust, worst.correct)
    assert runner.reports == []
