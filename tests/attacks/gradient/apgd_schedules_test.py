import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.gradient.apgd_schedules import HalvingSchedule
from keras_robust.attacks.gradient.apgd_schedules import SparseSchedule
from keras_robust.attacks.gradient.apgd_schedules import checkpoint_intervals


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (50, [11, 21, 30, 38, 45]),
        (20, [4, 7, 9, 10, 11]),
        (10, [2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_checkpoints_are_those_of_the_authors(num_steps, expected):
    points = np.cumsum(checkpoint_intervals(num_steps)).tolist()
    assert points[: len(expected)] == expected and points[-1] <= num_steps


X = np.zeros((4, 10), "float32")


def halved(schedule, rises, best_losses):
    """Returns the step sizes of four examples after every checkpoint, for given losses."""
    memory = schedule.first(X, keras.ops.zeros(4))
    steps, backs = [], []
    for index in range(len(rises)):
        memory, back = schedule.adapt(memory, index, rises[index], best_losses[index], X)
        steps.append(np.asarray(memory.step))
        backs.append(np.asarray(back))
    return np.array(steps), np.array(backs)


def test_a_step_is_halved_if_the_loss_rarely_rises_or_is_stuck():
    # With 50 steps there are checkpoints after 11 and 21 steps. The loss of the first example
    # always rises. That of the second rises in 8 of the first 11 steps, which is less than three
    # quarters. That of the third rises in 9 of 11, which is more, but its best loss does not change
    # between the checkpoints. That of the fourth never rises.
    schedule = HalvingSchedule(kr.Linf(0.1), X, 50)
    rises = np.ones((22, 4), "bool")
    rises[8:11, 1] = rises[9:11, 2] = rises[:, 3] = False
    best = np.repeat(np.arange(22.0, dtype="float32")[:, None] + 1.0, 4, axis=1)
    best[10:, 2] = 99.0
    steps, backs = halved(schedule, rises, best)
    np.testing.assert_array_equal(steps[9], [2.0, 2.0, 2.0, 2.0])
    np.testing.assert_array_equal(steps[10], [2.0, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(steps[20], [2.0, 1.0, 1.0, 0.5])
    np.testing.assert_array_equal(np.flatnonzero(backs.any(axis=1)), [10, 20])
    np.testing.assert_array_equal(backs[20], [False, False, True, True])


def test_the_first_step_has_no_momentum_and_later_ones_a_quarter():
    schedule = HalvingSchedule(kr.Linf(0.4, bounds=None), X, 50)
    memory = schedule.first(X, keras.ops.zeros(4))._replace(step=keras.ops.full((4,), 0.5))
    gradient, before = keras.ops.ones((4, 10)), X - 0.1
    np.testing.assert_allclose(schedule.move(memory, X, before, gradient, 0), X + 0.2, atol=1e-6)
    later = schedule.move(memory, X, before, gradient, 1)
    np.testing.assert_allclose(later, X + 0.75 * 0.2 + 0.25 * 0.1, atol=1e-6)


def test_a_sparse_step_moves_the_given_share_of_the_coordinates():
    # A new search moves a fifth of the ten coordinates: those with the largest gradient.
    slopes = np.tile(np.arange(1.0, 11.0, dtype="float32"), (4, 1))
    schedule = SparseSchedule(kr.L1(1.0, bounds=None), X, 100)
    memory = schedule.first(X, keras.ops.zeros(4))
    moved = schedule.move(
        memory, keras.ops.zeros((4, 10)), X, keras.ops.convert_to_tensor(slopes), 0
    )
    np.testing.assert_allclose(moved[0], [0.0] * 8 + [0.5] * 2, atol=1e-6)


def test_the_share_follows_the_best_point_and_the_step_is_reset_when_it_shrinks():
    # With 100 steps there is a checkpoint after every fourth step.
    schedule = SparseSchedule(kr.L1(1.0, bounds=None), X, 100)
    memory = schedule.first(X, keras.ops.zeros(4))
    best = np.zeros((4, 10), "float32")
    for example, changed in enumerate((10, 9, 6, 3)):
        best[example, :changed] = 0.1
    no = keras.ops.zeros(4)
    for index in range(3):
        memory, back = schedule.adapt(memory, index, no > 0, no, best)
        assert not np.any(back)
    memory, back = schedule.adapt(memory, 3, no > 0, no, best)
    np.testing.assert_array_equal(back, [False, True, True, True])
    np.testing.assert_allclose(memory.step, [1 / 1.5, 1.0, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(memory.share, np.array([10, 9, 6, 3]) / 15, rtol=1e-6)
    for index in range(4, 60):
        memory, back = schedule.adapt(memory, index, no > 0, no, best)
        assert not np.any(back)
    np.testing.assert_allclose(memory.step, [0.1] * 4, rtol=1e-6)


def test_a_continued_search_keeps_the_sparsity_of_its_start():
    start = np.zeros((4, 10), "float32")
    start[:, :6] = 0.1
    schedule = SparseSchedule(kr.L1(1.0, bounds=None), X, 100, is_new=False)
    memory = schedule.first(start, keras.ops.zeros(4))
    np.testing.assert_allclose(memory.share, [0.4] * 4, rtol=1e-6)
    np.testing.assert_array_equal(memory.changed_then, [6.0] * 4)
