import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.worst_case import WorstCase
from keras_robust.attacks.worst_case import is_mistaken
from tests.support.told import BALL
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model

ALL = np.arange(5)


def _outputs(x):
    return np.asarray(model(x))


def _worst(measures=True):
    return WorstCase(X, Y, _outputs(X), measures=measures)


def _moved(*moves):
    x = X.copy()
    x[:, 0] += np.array(moves, "float32")
    return x


def _take_in(worst, *moves, rows=ALL, ball=BALL):
    x_adv = _moved(*moves)[rows]
    return worst.update(rows, x_adv, _outputs(x_adv), ball)


def test_before_the_first_attack():
    worst = _worst()
    np.testing.assert_array_equal(worst.correct, [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(worst.robust, worst.correct)
    np.testing.assert_array_equal(worst.distances, [np.inf] * 4 + [0.0])
    np.testing.assert_array_equal(worst.x_adv, X)
    assert worst.x_adv is not X
    assert _worst(measures=False).distances is None


def test_the_strongest_feasible_example_is_kept():
    worst = _worst()
    _take_in(worst, -0.1, -0.1, -0.3, 0.30, 0.0)
    _take_in(worst, -0.3, -0.15, -0.2, 0.35, 0.0)
    _take_in(worst, 0.1, 0.3, -0.1, 0.10, 0.0)
    np.testing.assert_allclose(worst.x_adv, _moved(-0.3, -0.15, -0.3, 0.3, 0.0), rtol=1e-6)
    np.testing.assert_allclose(worst.adv_logits, _outputs(worst.x_adv), rtol=1e-6)
    np.testing.assert_array_equal(worst.robust, [1, 1, 0, 1, 0])


def test_update_returns_an_entry_for_each_row():
    worst = _worst()
    rows = np.array([3, 1, 2])
    broken, feasible = _take_in(worst, 0.0, -0.3, -0.4, 0.2, 0.0, rows=rows)
    np.testing.assert_array_equal(broken, [0, 1, 0])
    np.testing.assert_array_equal(feasible, [1, 1, 0])
    np.testing.assert_array_equal(worst.robust, [1, 0, 1, 1, 0])
    np.testing.assert_allclose(worst.x_adv, _moved(0.0, -0.3, 0.0, 0.2, 0.0), rtol=1e-6)


def test_a_broken_example_stays_broken():
    worst = _worst()
    _take_in(worst, 0.0, -0.3, 0.0, 0.0, 0.0)
    _take_in(worst, 0.0, 0.1, 0.0, 0.0, 0.0)
    np.testing.assert_array_equal(worst.robust, [1, 0, 1, 1, 0])


def test_the_nearest_mistake_is_measured():
    worst = _worst()
    _take_in(worst, -0.3, -0.3, -0.29, 0.5, 0.0)
    _take_in(worst, -0.45, -0.25, -0.3, 0.45, 0.0)
    # 0.9 is still right at 0.6 and a mistake at 0.45, which is outside of the ball.
    expected = [0.45, 0.25, 0.29, 0.45, 0.0]
    np.testing.assert_allclose(worst.distances, expected, rtol=1e-5)
    np.testing.assert_array_equal(worst.robust, worst.distances > 0.3)


def test_rounding_moves_no_feasible_point_out_of_the_ball():
    worst = _worst()
    _take_in(worst, 0.0, -0.3 - 2e-6, 0.0, 0.0, 0.0)
    assert not worst.robust[1]
    assert worst.distances[1] == 0.3


def test_points_outside_of_the_box_do_not_count():
    worst, ball = _worst(), kr.Linf(0.3, (np.array([0.45, 0.0]), np.array([1.0, 1.0])))
    # 0.44 is outside of the box, 0.46 inside.
    broken, feasible = _take_in(worst, 0.0, -0.26, -0.29, 0.0, 0.0, rows=ALL[1:3], ball=ball)
    np.testing.assert_array_equal(feasible, [0, 1])
    np.testing.assert_array_equal(broken, [0, 1])
    assert np.isinf(worst.distances[1]) and worst.distances[2] == pytest.approx(0.29)


def test_non_finite_logits_never_count_as_mistakes():
    worst, rows = _worst(), ALL[1:3]
    logits = np.array([[np.nan, 0.0], [np.inf, 0.0]], "float32")
    broken, feasible = worst.update(rows, _moved(0, -0.3, -0.3, 0, 0)[rows], logits, BALL)
    np.testing.assert_array_equal(feasible, [1, 1])
    np.testing.assert_array_equal(broken, [0, 0])
    np.testing.assert_array_equal(worst.robust, worst.correct)
    np.testing.assert_array_equal(worst.x_adv, X)
    assert np.isfinite(worst.adv_logits).all() and np.isinf(worst.distances[rows]).all()


def test_infinite_logits_are_not_a_stronger_example():
    clean, rows = np.array([[0.0, 1.0, 0.0]], "float32"), ALL[:1]
    worst = WorstCase(X[:1], np.array([1]), clean, measures=False)
    worst.update(rows, X[:1], np.array([[1.0, 0.5, -np.inf]], "float32"), BALL)
    np.testing.assert_array_equal(worst.adv_logits, clean)
    assert worst.robust[0]


def test_with_equal_margins_the_mistake_is_kept():
    # argmax returns the first of equal logits: class 1 is right at first, and then wrong.
    clean, x = np.array([[0.0, 1.0, 1.0]], "float32"), X[:1]
    worst = WorstCase(x, np.array([1]), clean, measures=False)
    tie = np.array([[1.0, 1.0, 0.0]], "float32")
    worst.update(ALL[:1], x, tie, BALL)
    assert not worst.robust[0]
    np.testing.assert_array_equal(worst.adv_logits, tie)


def test_one_radius_for_each_row():
    worst = _worst(measures=False)
    ball = kr.Linf(np.array([[0.26], [0.1]], "float32"))
    broken, feasible = _take_in(worst, 0.0, -0.25, -0.27, 0.0, 0.0, rows=ALL[1:3], ball=ball)
    np.testing.assert_array_equal(broken, [1, 0])
    np.testing.assert_array_equal(feasible, [1, 0])


@pytest.mark.parametrize("measures", [True, False])
def test_restore_returns_to_the_saved_state(measures):
    worst = _worst(measures)
    _take_in(worst, 0.0, -0.3, 0.0, 0.0, 0.0)
    worst.prove(ALL[:1])
    state = {name: array.copy() for name, array in worst.state().items()}
    other = _worst(measures)
    other.restore(state)
    for name in ("robust", "proved", "x_adv", "adv_logits", "distances"):
        np.testing.assert_array_equal(getattr(other, name), getattr(worst, name))
    _take_in(other, 0.0, 0.0, -0.3, 0.0, 0.0)
    np.testing.assert_array_equal(other.robust, [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(other.proved, [1, 0, 0, 0, 0])
    assert ("distances" in state) is measures


@pytest.mark.parametrize("name", ["robust", "proved"])
def test_a_clean_mistake_is_neither_robust_nor_proved(name):
    state = {**_worst().state(), name: np.ones(5, "bool")}
    with pytest.raises(ValueError, match=r"no clean mistake that is robust. Received.*\[4\]"):
        _worst().restore(state)


def test_several_inputs_and_objects_that_no_attack_changes():
    x = {"a": X[:2], "city": np.array(["Köln", b"\xff"], dtype=object)}
    ball = kr.threat_models.get({"a": kr.Linf(0.3)})
    worst = WorstCase(x, Y[:2], _outputs(X[:2]), measures=False)
    x_adv = {**x, "a": _moved(0.0, -0.3, 0, 0, 0)[:2]}
    broken, _ = worst.update(ALL[:2], x_adv, _outputs(x_adv["a"]), ball)
    np.testing.assert_array_equal(broken, [0, 1])
    np.testing.assert_allclose(worst.x_adv["a"], x_adv["a"])
    state = worst.state()
    assert all(array.dtype.kind != "O" for array in state.values())
    other = WorstCase(x, Y[:2], _outputs(X[:2]), measures=False)
    other.restore(state)
    np.testing.assert_array_equal(other.x_adv["a"], worst.x_adv["a"])
    assert list(other.x_adv["city"]) == ["Köln", b"\xff"]


def test_nan_logits_never_count_as_mistakes():
    logits = np.array([[1, 2], [2, 1], [np.nan, 1], [np.inf, 1], [1, 1]], "float32")
    np.testing.assert_array_equal(is_mistaken(logits, np.ones(5, "int64")), [0, 1, 0, 0, 1])
