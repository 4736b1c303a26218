"""JAX: passes through a model that do not change its state."""

import contextlib

from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign
from keras_robust.backend.keras_internals import is_seed


@contextlib.contextmanager
def inference_pass():
    """Restores, on exit, every variable that a pass through a model has assigned.

    The states of random number generators are not restored, so that each pass draws other numbers.

    Yields:
        A list, which on exit receives the variables that were restored.
    """
    put_back = []
    with Scope() as scope:
        yield put_back
    seeds = [variable for variable in scope.assigned if is_seed(variable)]
    assign(seeds, scope.values_of(seeds))
    put_back += [variable for variable in scope.assigned if not is_seed(variable)]


def forgotten_pass(model):
    """Returns a context in which assignments to variables are discarded."""
    return Scope()


def state_of(variable):
    """Returns the value of a variable; later assignments do not change it.

    No copy is made. Under `jax.jit` a copy would be a tracer, which must not be left in the
    variable when the value is restored.
    """
    return variable.value
