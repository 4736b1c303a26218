"""JAX: input gradients, loops, stateless random numbers, compiled functions, checks."""

import contextlib

import jax
import keras
import numpy as np
from jax.custom_derivatives import SymbolicZero

from keras_robust.backend.errors import NoGradientError
from keras_robust.backend.jax.function import Function
from keras_robust.backend.jax.function import OpenFunction
from keras_robust.backend.jax.logits import record_logits as record_logits
from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign

END_OF_DATA = (StopIteration,)
# Whether a layer that rejects an input can raise an error from compiled code.
RAISES_IN_GRAPHS = False

# Lengths that no model has an axis of, put in place of one that is not known.
_ODD_LENGTHS = (83, 89)
_COLLECTED = []


def value_and_input_gradient(function, x):
    """Returns `(values, auxiliary), gradient` of a per-example function at `x`.

    Args:
        function: callable `x -> (values, auxiliary)`, with `values` of shape `(batch_size,)`.
        x: float tensor `(batch_size, ...)`.

    Returns:
        What `function` returned, and the gradient of the sum of `values`, shape of `x`. Examples do
        not mix as long as `function` treats them apart. No gradient of a weight is computed.

    Raises:
        NoGradientError: if nothing differentiable leads from `x` to `values`.
    """
    is_connected, scope = [], Scope()

    def run(x):
        with scope:
            values, auxiliary = function(x)
        return _probe(values, x, is_connected), (auxiliary, scope.values_of(scope.assigned))

    x = jax.numpy.asarray(x)
    values, pull_back, (auxiliary, updates) = jax.vjp(run, x, has_aux=True)
    assign(scope.assigned, updates)
    if not is_connected[0]:
        raise NoGradientError("JAX", "pure_callback", x.shape, x.dtype.name)
    (gradient,) = pull_back(jax.numpy.ones_like(values))
    return (values, auxiliary), gradient


def _probe(values, x, is_connected):
    """Returns `values`, and notes for each derivative that is taken whether it goes through them.

    The first is that by `x`. An objective takes another one, by the weights, around it.
    """

    @jax.custom_jvp
    def same(values, x):
        return values

    def derivative(primals, tangents):
        is_connected.append(not isinstance(tangents[0], SymbolicZero))
        tangent = tangents[0] if is_connected[-1] else jax.numpy.zeros_like(primals[0])
        return primals[0], tangent

    same.defjvp(derivative, symbolic_zeros=True)
    return same(values, x)


def repeat(num_steps, body, state):
    """Returns `state` after `num_steps` calls of `state = body(step, state)`."""
    return fori_loop(0, num_steps, body, state)


def cond(holds, then, otherwise):
    """`keras.ops.cond` of functions that may assign variables."""

    def choose(scoped, start):
        def branch(function):
            return lambda carried: scoped(lambda _: function(), carried)

        return jax.lax.cond(holds, branch(then), branch(otherwise), start)

    return _carrying(choose, ())


def fori_loop(lower, upper, body, state):
    """`keras.ops.fori_loop` of a body that may assign variables; in Python where nothing is traced.

    There JAX would compile the loop, and do so again for every call.
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

    return _carrying(loop, state)


def while_loop(goes_on, body, state, maximum_iterations=None):
    """`keras.ops.while_loop` as `fori_loop` does its loop."""
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
                return jax.numpy.logical_and(count < most, goes_on(*state))

        def step(carried):
            return scoped(lambda own: (own[0] + 1, tuple(body(*own[1]))), carried)

        return jax.lax.while_loop(is_left, step, start)

    return _carrying(loop, (jax.numpy.asarray(0), state))[1]


def _is_traced(*structures):
    return any(map(is_symbolic, jax.tree.leaves(structures)))


def _carrying(loop, state):
    """Runs a loop, or a choice, and hands on what its body assigns."""
    last, _, assigned = _run_loop(loop, state, [])
    if assigned:
        last, values, _ = _run_loop(loop, state, assigned)
        assign(assigned, values)
    return last


def _run_loop(loop, state, variables):
    """Returns the last state, the last values of `variables`, and what was assigned."""
    assigned = {}

    def scoped(function, carried):
        state, values = carried
        with Scope(zip(variables, values, strict=True)) as scope:
            state = function(state)
        assigned.update((id(variable), variable) for variable in scope.assigned)
        return state, scope.values_of(variables)

    state, values = loop(scoped, (state, [variable.value for variable in variables]))
    return state, values, list(assigned.values())


def uniform(shape, seed, minval=0.0, maxval=1.0):
    """Uniform float32 numbers; `seed` `(2,)` for the batch or `(batch_size, 2)` per example."""
    return _draw(
        lambda key, shape: jax.random.uniform(key, shape, "float32", minval, maxval), shape, seed
    )


def normal(shape, seed):
    """Standard normal float32 numbers; `seed` `(2,)` or `(batch_size, 2)` as in `uniform`."""
    return _draw(lambda key, shape: jax.random.normal(key, shape, "float32"), shape, seed)


def _draw(sampler, shape, seed):
    key, shape = _key(seed), tuple(shape)
    if not key.ndim:
        return sampler(key, shape)
    return jax.vmap(lambda one: sampler(one, shape[1:]))(key)


def fold_in(seed, number):
    """Returns a new seed `(2,)` from a seed `(2,)` and an integer."""
    data = jax.random.key_data(jax.random.fold_in(_key(seed), number))
    return jax.lax.bitcast_convert_type(data, "int32")


def _key(seed):
    data = jax.numpy.asarray(seed).astype("int32")
    data = jax.lax.bitcast_convert_type(data, "uint32")
    # Named, so that a setting that chooses otherwise draws the same numbers.
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def compile_function(function, any_batch_size=False, variables=()):
    """Returns `function` compiled, traced once for each signature of its tensor arguments.

    Args:
        function: function of tensors, or of structures of them.
        any_batch_size: bool, whether all arguments have one row per example (or are the same for
            all), which the function treats apart, so that batches of other sizes may be filled up
            instead of tracing anew.
        variables: those that it reads, as far as they are known, which saves a trace.
    """
    return (OpenFunction if any_batch_size else Function)(function, others=variables)


def trace_output(function, inputs):
    """Returns a `keras.KerasTensor` for what `function` gives, from such tensors as its inputs.

    Keras often knows the outputs of layers from their shapes; here every one of them is run.
    """

    def run(x):
        with Scope():
            return function(x)

    def shape_for(length):
        def spec(leaf):
            shape = [length if axis is None else axis for axis in leaf.shape]
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        return jax.eval_shape(run, keras.tree.map_structure(spec, inputs))

    one, other = map(shape_for, _ODD_LENGTHS)
    shape = [a if a == b else None for a, b in zip(one.shape, other.shape, strict=True)]
    return keras.KerasTensor(shape, one.dtype.name)


def host_function(function, x, num_classes):
    """Returns what a function on NumPy arrays gives, which has no gradient.

    Args:
        function: callable that maps arrays in the structure of `x` to a float32 array
            `(batch_size, num_classes)`. In traced code it is called when that runs.
        x: tensor `(batch_size, ...)`, or a structure of such.
        num_classes: int.
    """

    def call(x):
        return function(keras.tree.map_structure(np.asarray, x))

    leaves = keras.tree.flatten(x)
    if not any(map(is_symbolic, leaves)):
        # Errors then come as they are raised.
        return jax.numpy.asarray(call(x))
    outputs = jax.ShapeDtypeStruct((leaves[0].shape[0], num_classes), "float32")
    return jax.pure_callback(call, outputs, jax.lax.stop_gradient(x))


def is_symbolic(x):
    """Whether `x` is being traced, so that its values cannot be looked at."""
    return isinstance(x, jax.core.Tracer)


def variable_scope(model):
    """Returns the context in which variables beside those of `model` are made: here it is any."""
    return contextlib.nullcontext()


def refuse_distribution(model):
    """Raises nothing: on JAX Keras distributes what it says."""


def double_precision():
    """Returns the context in which computations may be in float64."""
    return jax.enable_x64(True)


def require_all(conditions, message, x):
    """Returns `x`, and raises `ValueError` with `message` unless all `conditions` hold.

    Compiled code drops the check and returns `x`.
    """
    holds = jax.numpy.all(jax.numpy.asarray(conditions))
    if not is_symbolic(holds):
        if not holds:
            raise ValueError(message)
    elif _COLLECTED:
        _COLLECTED[-1].append((message, holds))
    return x


@contextlib.contextmanager
def collected_requirements():
    """Within, a list of pairs `(message, condition)` grows by what traced code requires."""
    _COLLECTED.append([])
    try:
        yield _COLLECTED[-1]
    finally:
        _COLLECTED.pop()


def required_message(error):
    """Returns what to say in place of an error of JAX in a train step, or `None`."""
    if type(error).__name__ != "IndivisibleError":
        return None
    return (
        "Under `keras.distribution` the devices must divide every batch, the last one too, and "
        "those of `validation_data`. Choose such a batch size, and leave out the rows "
        "that remain: `x[: len(x) // batch_size * batch_size]`, or `drop_remainder=True` in "
        f"`tf.data`. Received: {str(error).rpartition('implies that ')[2]}"
    )
