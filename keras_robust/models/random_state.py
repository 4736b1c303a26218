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

# Far from every count of draws.
_AWAY = np.array([0, 2**31], "uint32")
_THREAD = threading.local()


@contextlib.contextmanager
def own_noise(model):
    """Within, random layers of the model draw from streams of their own; after it, from the old.

    So that a search leaves the model as it was, and has not seen the numbers that come after it.
    In a context within such a context nothing happens: the draws go on.
    """
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
    """Returns a function with an argument `model`, called in `own_noise` of that model."""
    place = list(inspect.signature(function).parameters).index("model")

    @functools.wraps(function)
    def called(*args, **kwargs):
        with own_noise(args[place] if len(args) > place else kwargs.get("model")):
            return function(*args, **kwargs)

    return called
