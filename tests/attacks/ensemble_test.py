import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.ensemble import Ensemble
from keras_robust.attacks.ensemble import PlannedAttack
from keras_robust.attacks.worst_case import WorstCase
from tests.support.told import BALL
from tests.support.told import Fixed
from tests.support.told import FixedNearest
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model

FIRST = Fixed([0.0, -0.3, 0.0, 0.0, 0.0])
SECOND = Fixed([0.0, -0.3, -0.3, 0.0, 0.0], claim=False)


def _ensemble(ball=BALL, seed=0):
    worst = WorstCase(X, Y, np.asarray(model(X)), measures=True)
    return Ensemble(model, worst, ball, batch_size=2, seed=seed)


def _run(ensemble, plan, first=0):
    """Returns the rows and the verdicts of every turn."""
    verdicts = []
    for member in ensemble.runs(plan, first):
        count = sum(member.batches(verbose=False))
        assert count == len(member.rows)
        verdicts.append((member.rows.tolist(), member.rows[member.judge()[1]].tolist()))
    return verdicts


def test_members_of_a_suite_attack_what_is_robust_and_others_what_is_correct():
    suite = [PlannedAttack(FIRST, "suite"), PlannedAttack(SECOND, "suite")]
    assert _run(_ensemble(), suite) == [([0, 1, 2, 3], [1]), ([0, 2, 3], [2])]
    alone = [PlannedAttack(FIRST), PlannedAttack(SECOND)]
    assert _run(_ensemble(), alone) == [([0, 1, 2, 3], [1]), ([0, 1, 2, 3], [1, 2])]


def test_only_attacks_without_a_radius_run_on_what_is_proved():
    ensemble = _ensemble()
    ensemble.worst.prove(np.array([0, 3]))
    suite = [PlannedAttack(FIRST, "suite"), PlannedAttack(SECOND, "suite"), PlannedAttack(FIRST)]
    search = PlannedAttack(FixedNearest([-0.5, -0.25, -0.25, 0.0, 0.0]), is_unbounded=True)
    members = list(ensemble.runs([*suite, search]))
    assert [member.num_open for member in members] == [2, 2, 2, 4]
    rows = [rows for rows, _ in _run(ensemble, [*suite, search])]
    assert rows == [[1, 2], [2], [1, 2], [0, 1, 2, 3]]


def test_it_goes_on_after_the_attacks_that_are_done():
    plan = [PlannedAttack(kr.attacks.RandomNoise(num_samples=1))] * 2
    whole, rest = _ensemble(seed=3), _ensemble(seed=3)
    points = [
        member.dataset_attack.found().x_adv
        for member in whole.runs(plan)
        if sum(member.batches(False))
    ]
    (later,) = [member for member in rest.runs(plan, first=1) if sum(member.batches(False))]
    np.testing.assert_array_equal(later.dataset_attack.found().x_adv, points[1])
    # Every attack draws other random numbers.
    assert np.abs(points[1] - points[0]).max() > 0.01


def test_points_outside_of_the_ball_break_nothing():
    (member,) = _ensemble().runs([PlannedAttack(Fixed([0.0, -0.31, -0.3, 0.0, 0.0]))])
    assert sum(member.batches(False)) == 4
    _, broken, feasible = member.judge()
    np.testing.assert_array_equal(broken, [0, 0, 1, 0])
    np.testing.assert_array_equal(feasible, [1, 0, 1, 1])


def test_a_minimum_norm_attack_has_no_radius_and_is_judged_with_it(search_alone):
    ensemble = _ensemble()
    attack = FixedNearest([-0.5, -0.25, 0.0, 0.0, 0.0])
    (member,) = ensemble.runs([PlannedAttack(attack, is_unbounded=True)])
    assert sum(member.batches(False)) == 4
    np.testing.assert_array_equal(member.judge()[1], [0, 1, 0, 0])
    np.testing.assert_allclose(ensemble.worst.distances[:2], [0.5, 0.25], rtol=1e-5)


def test_only_the_rows_that_count_are_attacked_and_shown(capsys):
    worst = WorstCase(X, Y, np.asarray(model(X)), measures=False)
    ensemble = Ensemble(model, worst, BALL, rows=[1, 2, 4], batch_size=2, seed=0)
    (member,) = ensemble.runs([PlannedAttack(Fixed([0.0] * 5, claim=False))])
    np.testing.assert_array_equal(member.rows, [1, 2])
    assert sum(member.batches(True)) == 2
    # Two of three examples are right; example 4 is a clean mistake.
    assert "robust: 0.6667" in capsys.readouterr().out


def test_nothing_runs_where_nothing_is_left(capsys):
    ensemble = _ensemble()
    ensemble.worst.robust[:] = False
    (member,) = ensemble.runs([PlannedAttack(FIRST, "suite")])
    assert (
        member.dataset_attack is None and list(member.batches(True)) == [] and len(member.rows) == 0
    )
    assert capsys.readouterr().out == "[1/1] Fixed, 0 examples\n"


@pytest.mark.parametrize("num_robust", [1, 3])
def test_the_bar_shows_the_accuracy_of_all_examples(capsys, num_robust):
    ensemble = _ensemble()
    ensemble.worst.robust[:] = np.arange(5) < num_robust
    (member,) = ensemble.runs([PlannedAttack(Fixed([0.0] * 5, claim=False), "suite")])
    assert sum(member.batches(True)) == num_robust
    shown = capsys.readouterr().out
    assert shown.startswith(f"[1/1] Fixed, {num_robust} example")
    assert f"robust: {num_robust / 5:.1f}" in shown


def test_the_headlines_count_all_parts_and_say_what_is_attacked(capsys, search_alone):
    search = PlannedAttack(FixedNearest([-0.5, -0.25, 0.0, 0.0, 0.0]), is_unbounded=True)
    plan = [PlannedAttack(FIRST, "suite"), PlannedAttack(SECOND, "suite"), search]
    for member in _ensemble().runs(plan, first=1, num_before=2):
        assert sum(member.batches(verbose=True)) == len(member.rows)
        member.judge()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines == ["[4/5] Fixed, 4 examples", "[5/5] FixedNearest (any radius), 4 examples"]
