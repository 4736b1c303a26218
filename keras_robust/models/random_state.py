"""The states of the random number generators in a model."""

import contextlib
import functools
import inspect
import threading

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.backend.keras_internals import is_seed

# An offset to the counters of draws that no training reaches.
_AWAY = np.array([0, 2**31], "uint32")
_THREAD = threading.local()


@contextlib.contextmanager
def own_noise(model):
    """Gives the random layers of the model other random numbers inside the context.

    On exit the old states are restored, so that an attack does not change the random numbers of the
    training, and does not know the numbers that follow. A nested context for the same model does
    nothing.
    """
    # The replicas of a strategy trace in threads of their own.
    models = _THREAD.__dict__.setdefault("models", [])
    if not isinstance(model, keras.Layer) or any(one is model for one in models):
        yield
        return
    states = [(v, backend.state_of(v)) for v in model.variables if is_seed(v)]
    models.append(model)
    try:
        for variable, state in states:
            variable.assign(state + ops.convert_to_tensor(_AWAY, state.dtype))
        yield
    finally:
        models.pop()
        for variable, state in states:
            variable.assign(state)


def with_own_noise(function):
    """Returns a function with an argument `model`, called inside `own_noise(model)`."""
    # A caller may pass `model` by its position or by its name.
    place = list(inspect.signature(function).parameters).index("model")

    @functools.wraps(function)
    def called(*args, **kwargs):
        with own_noise(args[place] if len(args) > place else kwargs.get("model")):
            return function(*args, **kwargs)

    return called
