"""TensorFlow: passes through a model that leave its state as it was."""

import contextlib

import keras
import tensorflow as tf

from keras_robust.backend.keras_internals import NestedScope
from keras_robust.backend.keras_internals import assign_directly
from keras_robust.backend.keras_internals import is_seed
from keras_robust.backend.keras_internals import stored_value


@contextlib.contextmanager
def inference_pass():
    """Within, one pass through a model; after it, what the pass assigned has its old values.

    But for the states of random number generators: each pass draws other numbers.

    Returns a list that holds, after the pass, the variables that were put back.
    """
    put_back, journal = [], _Journal()
    try:
        with journal:
            yield put_back
    finally:
        put_back += journal.undo()


def forgotten_pass(model):
    """Returns a context. Variables assigned in it keep their old values.

    No assignment is added to the graph.
    """
    # Inside, Keras takes what it regularises from the scope.
    given = [weight for weight in model.trainable_weights if weight.regularizer is not None]
    pairs = [(weight, tf.convert_to_tensor(weight)) for weight in given]
    return keras.StatelessScope(pairs, collect_losses=True)


class _Journal(NestedScope):
    """Assigns for real, and notes what was there before.

    Values in an ordinary scope could not leave the body of a loop.
    """

    def __init__(self):
        super().__init__()
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self._before = {}

    def get_current_value(self, variable):
        around = self.outer
        value = None if around is None else around.get_current_value(variable)
        return stored_value(variable) if value is None else value

    def add_update(self, update):
        variable, value = update
        if id(variable) not in self._before:
            self._before[id(variable)] = variable, self._read(variable)
        self._assign(variable, value)

    def undo(self):
        """Puts back what the variables were, and returns which."""
        pairs = [pair for pair in self._before.values() if not is_seed(pair[0])]
        for variable, value in pairs:
            self._assign(variable, value)
        return [variable for variable, _ in pairs]

    def _read(self, variable):
        # In front of the loop in whose body this may be.
        with contextlib.nullcontext() if self._graph is None else self._graph.as_default():
            return tf.identity(self.get_current_value(variable))

    def _assign(self, variable, value):
        if self.outer is None:
            assign_directly(variable, value)
        else:
            self.outer.add_update((variable, value))


def state_of(variable):
    """Returns the value of a variable, which a later assignment does not change.

    It is computed, since a tensor that was read may share the memory of the variable.
    """
    return variable.value * 1
