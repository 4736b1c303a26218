import functools
import re

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.dataset_attack import DatasetAttack
from tests.support import numpy_reference
from tests.support import terminals
from tests.support import tiers

ATTACK = kr.attacks.PGD(num_steps=2, num_restarts=3, loss="margin")


def start(batch_size=4, seed=7, ball=None, attack=ATTACK, rows=None, count=10):
    x, y = numpy_reference.examples(count)
    model = numpy_reference.keras_model()
    ball = kr.Linf(0.15) if ball is None else ball
    return DatasetAttack(attack, model, x, y, ball, rows=rows, batch_size=batch_size, seed=seed)


def finished(run):
    for _ in run:
        pass
    return run.found()


def assert_same(found, other):
    for field, expected in zip(found, other, strict=True):
        np.testing.assert_array_equal(field, expected)


@pytest.mark.exhaustive
def test_counts_the_examples_of_every_batch_and_visits_survivors_only():
    run = start()
    counts = list(run)
    found = run.found()
    first = finished(start(attack=ATTACK.clone(num_restarts=1)))
    left = int((~first.success).sum())
    assert counts[:3] == [4, 4, 2] and 0 < left < 10
    assert sum(counts[3:]) >= left
    assert found.queries.min() == 7 and found.queries.max() == 21


@tiers.parametrize("stop", [1, 2, 3, 4, 5])
def test_continuing_from_a_state_gives_the_same_result(stop):
    whole = finished(start())
    run = start()
    for number, _ in enumerate(run, 1):
        if number == stop:
            state = {name: np.copy(array) for name, array in run.state().items()}
            break
    other = start()
    other.restore(state)
    assert_same(finished(other), whole)


@pytest.mark.exhaustive
def test_a_state_before_the_first_batch_restarts_the_attack():
    run = start()
    run.restore(start().state())
    assert_same(finished(run), finished(start()))


@pytest.mark.exhaustive
def test_rows_give_the_same_results_as_the_whole_data_set():
    rows = np.array([8, 3, 5])
    whole, some = finished(start()), finished(start(rows=rows))
    for field, expected in zip(some, whole, strict=True):
        np.testing.assert_allclose(field, expected[rows], atol=1e-6)


@pytest.mark.exhaustive
@tiers.parametrize("norm", ["L2", "Linf"])
def test_rows_keep_their_own_radius(norm):
    radii = np.linspace(0.01, 0.3, 10, dtype="float32")
    ball = getattr(kr.threat_models, norm)(radii[:, None] if norm == "Linf" else radii)
    rows = np.array([9, 0])
    found = finished(start(ball=ball, rows=rows))
    x, _ = numpy_reference.examples(10)
    size = np.asarray(getattr(kr.threat_models, norm)(0.5).distance(found.x_adv, x[rows]))
    np.testing.assert_allclose(size, radii[rows], rtol=0.3)


@pytest.mark.exhaustive
def test_under_an_infinite_radius_every_restart_visits_every_example():
    attack = kr.attacks.TargetedFAB(num_targets=2, num_steps=5)
    ball = kr.L2(0.5).with_epsilon(np.inf)
    run = start(attack=attack, ball=ball)
    assert sum(run) == 20
    found = run.found()
    first = finished(start(attack=attack.clone(num_targets=1), ball=ball))
    assert np.all(found.loss >= first.loss) and np.any(found.loss > first.loss)


@pytest.mark.exhaustive
def test_the_bar_shows_the_accuracy_so_far(capsys):
    run = start()
    assert sum(run.with_progress(True, num_others=10, num_robust=4)) >= 10
    left = int((~run.found().success).sum())
    assert f"robust: {(4 + left) / 20:.4f}" in capsys.readouterr().out
    assert sum(start().with_progress(False)) >= 10
    assert capsys.readouterr().out == ""


def test_a_part_has_the_random_numbers_of_the_whole_in_full_batches():
    x, y = numpy_reference.examples(10)
    numbers, asked = np.array([1, 4, 7]), []
    model = numpy_reference.keras_model()
    arguments = {"batch_size": 5, "seed": 7}
    run = DatasetAttack(ATTACK, model, x[numbers], y[numbers], kr.Linf(0.15), **arguments)
    run.become_part(numbers, 5)
    search = run._step._function
    run._step._function = lambda x, *rest: (asked.append(len(x)), search(x, *rest))[1]
    found = finished(run)
    whole = finished(start(5))
    np.testing.assert_allclose(found.x_adv, whole.x_adv[numbers], atol=1e-6)
    np.testing.assert_array_equal(found.queries, whole.queries[numbers])
    assert set(asked) == {5} and len(found.x_adv) == 3


def test_the_bar_counts_examples_and_only_what_is_still_to_attack(monkeypatch):
    run = start()
    # How many are left after the first batches, of 4, 4 and 2 examples, and after the restarts.
    counts, num_left, state = [], [], None
    for count in run:
        counts.append(count)
        num_left.append(10 - int(run.state()["success"].sum()))
        state = run.state() if len(counts) == 3 else state
    assert counts[:3] == [4, 4, 2] and 10 > num_left[0] > num_left[2] > 0
    whole, rest = (_bar(monkeypatch, one) for one in (None, state))
    assert [done for done, _ in whole] == [*np.cumsum(counts), sum(counts)]
    assert [total for _, total in whole[:3]] == [10 + 2 * left for left in num_left[:3]]
    assert whole[-1] == (sum(counts), sum(counts))
    # After a checkpoint it counts what is left from there.
    assert rest[0][0] == counts[3] and rest[-1] == (sum(counts) - 10, sum(counts) - 10)


def _bar(monkeypatch, state):
    """Returns the counts and the totals that the bar shows."""
    terminal, run = terminals.Terminal(), start()
    if state is not None:
        run.restore(state)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", terminal)
        patch.setattr("keras.utils.Progbar", functools.partial(keras.utils.Progbar, interval=0))
        assert sum(run.with_progress(True)) > 0
    (states,) = terminal.states()
    pairs = [re.match(r" *(\d+)/(\d+) ", state).groups() for state in states]
    return [(int(done), int(total)) for done, total in pairs]
