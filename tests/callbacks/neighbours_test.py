import inspect

import keras

from keras_robust.callbacks.neighbours import list_around
from tests.support import linear_fit


class _Curious(keras.callbacks.Callback):
    """Looks around where its methods are called."""

    def set_model(self, model):
        super().set_model(model)
        self.found = list_around(self, inspect.currentframe().f_back)


def test_finds_the_other_callbacks_of_a_fit():
    curious, other = _Curious(), keras.callbacks.LambdaCallback()
    callbacks = keras.callbacks.CallbackList([curious, other], model=linear_fit.make_model())
    assert curious.found is callbacks
    assert callbacks.callbacks[:2] == [curious, other]


def test_there_is_none_around_a_call_by_hand():
    curious = _Curious()
    curious.set_model(linear_fit.make_model())
    assert curious.found is None
    assert list_around(curious, None) is None


def test_a_method_of_a_subclass_may_stand_in_between():
    class Own(_Curious):
        def set_model(self, model):
            super().set_model(model)

    own = Own()
    callbacks = keras.callbacks.CallbackList([own], model=linear_fit.make_model())
    assert own.found is callbacks
