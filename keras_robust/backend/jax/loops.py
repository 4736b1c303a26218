"""JAX: loops and choices whose functions may assign Keras variables."""

import jax
import numpy as np

from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign


def repeat(num_steps, body, state):
    """Returns `state` after `num_steps` calls of `state = body(step, state)`."""
    return fori_loop(0, num_steps, body, state)


def cond(holds, then, otherwise):
    """Returns the result of `keras.ops.cond` for functions that may assign variables."""

    def choose(scoped, start):
        def branch(function):
            return lambda carried: scoped(lambda _: function(), carried)

        return jax.lax.cond(holds, branch(then), branch(otherwise), start)

    return _carry_updates(choose, ())


def fori_loop(lower, upper, body, state):
    """Returns the result of `keras.ops.fori_loop` for a body that may assign variables.

    Outside of a trace the loop runs in Python, because JAX would compile it anew at every call.
    """
    state = jax.tree.map(jax.numpy.asarray, state)
    if not _is_traced(lower, upper, state):
        for number in range(int(lower), int(upper)):
            state = body(jax.numpy.asarray(number), state)
        return state

    def loop(scoped, start):
        def step(number, carried):
            return scoped(lambda state: body(number, state), carried)

        return jax.lax.fori_loop(lower, upper, step, start)

    return _carry_updates(loop, state)


def while_loop(goes_on, body, state, maximum_iterations=None):
    """Returns the result of `keras.ops.while_loop` for a body that may assign variables.

    Outside of a trace the loop runs in Python, because JAX would compile it anew at every call.
    """
    most = np.iinfo("int32").max if maximum_iterations is None else maximum_iterations
    state = jax.tree.map(jax.numpy.asarray, tuple(state))
    if not _is_traced(state) and not _is_traced(goes_on(*state)):
        count = 0
        while count < most and goes_on(*state):
            state, count = tuple(body(*state)), count + 1
        return state

    def loop(scoped, start):
        def is_left(carried):
            count, state = carried[0]
            with Scope():
                # The condition is evaluated in a scope, which discards its assignments.
                return jax.numpy.logical_and(count < most, goes_on(*state))

        def step(carried):
            return scoped(lambda own: (own[0] + 1, tuple(body(*own[1]))), carried)

        return jax.lax.while_loop(is_left, step, start)

    return _carry_updates(loop, (jax.numpy.asarray(0), state))[1]


def _is_traced(*structures):
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(structures))


def _carry_updates(loop, state):
    """Runs a loop or a choice, and assigns the values that its body assigned.

    The first trace finds the variables that the body assigns; the second one carries their values.
    """
    last, _, assigned = _run_loop(loop, state, [])
    if assigned:
        last, values, _ = _run_loop(loop, state, assigned)
        assign(assigned, values)
    return last


def _run_loop(loop, state, variables):
    """Returns the last state, the last values of `variables`, and all variables assigned."""
    assigned = {}

    def scoped(function, carried):
        state, values = carried
        with Scope(zip(variables, values, strict=True)) as scope:
            state = function(state)
        assigned.update((id(variable), variable) for variable in scope.assigned)
        return state, scope.values_of(variables)

    state, values = loop(scoped, (state, [variable.value for variable in variables]))
    return state, values, list(assigned.values())
