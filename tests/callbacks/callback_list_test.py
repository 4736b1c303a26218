import inspect

import keras
import pytest

from keras_robust.callbacks.callback_list import move_callback
from tests.support import linear_fit


class _Mover(keras.callbacks.Callback):
    """Moves to an index, and stores the list of callbacks at that time."""

    def __init__(self, index):
        super().__init__()
        self.index = index
        self.calls = 0

    def set_model(self, model):
        super().set_model(model)
        self.calls += 1
        self.found = move_callback(self, inspect.currentframe().f_back, lambda others: self.index)


@pytest.mark.parametrize("start", range(3))
@pytest.mark.parametrize("end", range(3))
def test_moves_among_the_callbacks_of_a_fit_and_all_have_their_turn(start, end):
    mover = _Mover(end)
    others = [_Mover(0), keras.callbacks.LambdaCallback()]
    others[0].set_model = lambda model: setattr(others[0], "calls", others[0].calls + 1)
    before = [*others[:start], mover, *others[start:]]
    callbacks = keras.callbacks.CallbackList(before, model=linear_fit.make_model())
    assert mover.found() is callbacks.callbacks
    assert callbacks.callbacks[:3] == [*others[:end], mover, *others[end:]]
    assert mover.calls == others[0].calls == 1


def test_later_moves_are_seen():
    first, second = _Mover(1), _Mover(0)
    keras.callbacks.CallbackList([first, second], model=linear_fit.make_model())
    assert first.found()[:2] == second.found()[:2] == [second, first]


def test_a_manual_call_has_no_list():
    mover = _Mover(0)
    mover.set_model(linear_fit.make_model())
    assert mover.found() == []
    assert move_callback(mover, None, lambda others: 0)() == []


def test_a_method_of_a_subclass_may_stand_in_between():
    class Own(_Mover):
        def set_model(self, model):
            super().set_model(model)

    own = Own(0)
    callbacks = keras.callbacks.CallbackList([own], model=linear_fit.make_model())
    assert own.found() is callbacks.callbacks
