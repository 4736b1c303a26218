"""TensorFlow: passes through a model that do not change its state."""

import contextlib

import keras
import tensorflow as tf

from keras_robust.backend.keras_internals import NestedScope
from keras_robust.backend.keras_internals import assign_directly
from keras_robust.backend.keras_internals import is_seed
from keras_robust.backend.keras_internals import stored_value


@contextlib.contextmanager
def inference_pass():
    """Restores, on exit, every variable that a pass through a model has assigned.

    The states of random number generators are not restored, so that each pass draws other numbers.

    Yields:
        A list, which on exit receives the variables that were restored.
    """
    put_back, journal = [], _Journal()
    try:
        with journal:
            yield put_back
    finally:
        put_back += journal.undo()


def forgotten_pass(model):
    """Returns a context in which assignments to variables are discarded.

    No assignment is added to the graph.
    """
    # In a stateless scope, Keras reads the weights to regularize from the scope.
    given = [weight for weight in model.trainable_weights if weight.regularizer is not None]
    pairs = [(weight, tf.convert_to_tensor(weight)) for weight in given]
    return keras.StatelessScope(pairs, collect_losses=True)


class _Journal(NestedScope):
    """Assigns to variables, and records the values that they had before.

    An ordinary `StatelessScope` keeps the new values instead, and they could not leave the body of
    a loop.
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
        # Only the first assignment finds the original value.
        if id(variable) not in self._before:
            self._before[id(variable)] = variable, self._read(variable)
        self._assign(variable, value)

    def undo(self):
        """Restores the recorded values, and returns the variables."""
        pairs = [pair for pair in self._before.values() if not is_seed(pair[0])]
        for variable, value in pairs:
            self._assign(variable, value)
        return [variable for variable, _ in pairs]

    def _read(self, variable):
        # Read the variable outside of the loop that may surround this code.
        with contextlib.nullcontext() if self._graph is None else self._graph.as_default():
            return tf.identity(self.get_current_value(variable))

    def _assign(self, variable, value):
        if self.outer is None:
            assign_directly(variable, value)
        else:
            self.outer.add_update((variable, value))


def state_of(variable):
    """Returns the value of a variable; later assignments do not change it.

    The multiplication makes a copy: a tensor read from a variable may share its memory.
    """
    return variable.value * 1
