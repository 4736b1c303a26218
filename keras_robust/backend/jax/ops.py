"""JAX: input gradients, stateless random numbers, compiled functions, checks."""

import contextlib

import jax
import keras
import numpy as np
from jax.custom_derivatives import SymbolicZero

from keras_robust.backend.errors import NoGradientError
from keras_robust.backend.jax.function import Function
from keras_robust.backend.jax.function import OpenFunction
from keras_robust.backend.jax.logits import record_logits as record_logits
from keras_robust.backend.jax.loops import cond as cond
from keras_robust.backend.jax.loops import fori_loop as fori_loop
from keras_robust.backend.jax.loops import repeat as repeat
from keras_robust.backend.jax.loops import while_loop as while_loop
from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign

END_OF_DATA = (StopIteration,)
# Whether a layer that rejects an input can raise an error from compiled code.
RAISES_IN_GRAPHS = False

# Two unlikely lengths, used in place of an unknown length: the axes that differ are unknown.
_ODD_LENGTHS = (83, 89)
_COLLECTED = []


def value_and_input_gradient(function, x):
    """Returns `(values, auxiliary), gradient` of a per-example function at `x`.

    Args:
        function: callable `x -> (values, auxiliary)`, with `values` of shape `(batch_size,)`.
        x: float tensor `(batch_size, ...)`.

    Returns:
        The result of `function`, and the gradient of the sum of `values`, in the shape of `x`. The
        gradient of each example depends on that example only if `function` treats the examples
        separately. No gradients of weights are computed.

    Raises:
        NoGradientError: if `values` do not depend on `x` by differentiable operations.
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
    """Returns `values`, and records whether they depend on `x` whenever a derivative is taken.

    The first derivative is with respect to `x`. An objective takes a second one around it, with
    respect to the weights.
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


def uniform(shape, seed, minval=0.0, maxval=1.0):
    """Returns uniform float32 numbers.

    Args:
        shape: shape of the result, `(batch_size, ...)`.
        seed: int32, `(2,)` for the batch or `(batch_size, 2)` for one seed per example.
        minval: float, the lower bound.
        maxval: float, the upper bound.
    """
    return _draw(
        lambda key, shape: jax.random.uniform(key, shape, "float32", minval, maxval), shape, seed
    )


def normal(shape, seed):
    """Returns standard normal float32 numbers; see `uniform` for the arguments."""
    return _draw(lambda key, shape: jax.random.normal(key, shape, "float32"), shape, seed)


def _draw(sampler, shape, seed):
    key, shape = _key(seed), tuple(shape)
    if not key.ndim:
        return sampler(key, shape)
    return jax.vmap(lambda one: sampler(one, shape[1:]))(key)


def fold_in(seed, number):
    """Returns a new seed `(2,)` from a seed `(2,)` and an integer, or `(n, 2)` from `n` of each."""
    key = _key(seed)
    fold = jax.vmap(jax.random.fold_in) if key.ndim else jax.random.fold_in
    data = jax.random.key_data(fold(key, number))
    return jax.lax.bitcast_convert_type(data, "int32")


def _key(seed):
    data = jax.numpy.asarray(seed).astype("int32")
    data = jax.lax.bitcast_convert_type(data, "uint32")
    # Name the generator: a setting of JAX may choose another default.
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def compile_function(function, any_batch_size=False, variables=()):
    """Returns `function` compiled, traced once for each signature of its tensor arguments.

    Args:
        function: function of tensors, or of structures of tensors.
        any_batch_size: bool, whether every argument has one row per example (or is the same for all
            of them) and the function treats the examples separately. Smaller batches are then
            padded instead of traced anew.
        variables: the variables that the function is known to read, which saves a trace.
    """
    return (OpenFunction if any_batch_size else Function)(function, others=variables)


def trace_output(function, inputs):
    """Returns the `keras.KerasTensor` of the result of `function` for symbolic `inputs`.

    Keras often infers the outputs of layers from their shapes; here every layer is run.
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
    """Returns the result of a function on NumPy arrays, which has no gradient.

    Args:
        function: callable that maps arrays in the structure of `x` to a float32 array `(batch_size,
            num_classes)`. Traced code calls it every time that the code runs.
        x: tensor `(batch_size, ...)`, or a structure of tensors.
        num_classes: int.
    """

    def call(x):
        return function(keras.tree.map_structure(np.asarray, x))

    leaves = keras.tree.flatten(x)
    if not any(map(is_symbolic, leaves)):
        # Called directly, the function raises its own errors, without those of the framework.
        return jax.numpy.asarray(call(x))
    outputs = jax.ShapeDtypeStruct((leaves[0].shape[0], num_classes), "float32")
    # A gradient through `pure_callback` would be an error.
    return jax.pure_callback(call, outputs, jax.lax.stop_gradient(x))


def is_symbolic(x):
    """Returns whether `x` is being traced, so that its values are not known."""
    return isinstance(x, jax.core.Tracer)


def variable_scope(model):
    """Returns the context in which to create variables; JAX needs none."""
    return contextlib.nullcontext()


def refuse_distribution(model):
    """Does nothing: Keras on JAX supports its distributions."""


def double_precision():
    """Returns the context for computations in float64."""
    return jax.enable_x64(True)


def require_all(conditions, message, x):
    """Returns `x`, and raises ValueError with `message` unless all `conditions` hold.

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
    """Collects the `require_all` of traced code in a list of pairs `(message, condition)`."""
    _COLLECTED.append([])
    try:
        yield _COLLECTED[-1]
    finally:
        _COLLECTED.pop()


def required_message(error):
    """Returns an explanation of an error that JAX raised in a train step, or `None`."""
    if type(error).__name__ != "IndivisibleError":
        return None
    return (
        "Under `keras.distribution` the number of devices must divide the size of every batch, "
        "including the last one and those of `validation_data`. Change the batch size, or drop "
        "the remaining rows: `x[: len(x) // batch_size * batch_size]`, or `drop_remainder=True` "
        f"in `tf.data`. Received: {str(error).rpartition('implies that ')[2]}"
    )
