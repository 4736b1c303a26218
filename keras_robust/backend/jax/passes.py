"""JAX: passes through a model that leave its state as it was."""

import contextlib

from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign
from keras_robust.backend.keras_internals import is_seed


@contextlib.contextmanager
def inference_pass():
    """Within, one pass through a model; after it, what the pass assigned has its old values.

    But for the states of random number generators: each pass draws other numbers.

    Returns a list that holds, after the pass, the variables that were put back.
    """
    put_back = []
    with Scope() as scope:
        yield put_back
    seeds = [variable for variable in scope.assigned if is_seed(variable)]
    assign(seeds, scope.values_of(seeds))
    put_back += [variable for variable in scope.assigned if not is_seed(variable)]


def forgotten_pass(model):
    """Returns a context of which no assigned value outlives the end."""
    return Scope()


def state_of(variable):
    """Returns the value of a variable, which a later assignment does not change.

    It is no computation: under `jax.jit` its result would be a tracer, which must not be left in
    the variable when it is put back.
    """
    return variable.value
