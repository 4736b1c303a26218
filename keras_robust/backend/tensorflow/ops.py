"""TensorFlow: input gradients, stateless random numbers, compiled functions."""

import contextlib
import functools
import re

import keras
import numpy as np
import tensorflow as tf

from keras_robust.backend.errors import NoGradientError
from keras_robust.backend.tensorflow.distribution import refuse_distribution as refuse_distribution
from keras_robust.backend.tensorflow.loops import repeat as repeat
from keras_robust.backend.tensorflow.requirements import require as require
from keras_robust.backend.tensorflow.requirements import require_all as require_all
from keras_robust.backend.tensorflow.requirements import required_message as required_message

END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)
# Whether a layer that rejects an input can raise an error from compiled code.
RAISES_IN_GRAPHS = True

cond, fori_loop, while_loop = keras.ops.cond, keras.ops.fori_loop, keras.ops.while_loop
# Name the generator: the default may differ between versions of TensorFlow.
_GENERATOR = "philox"


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
    # A tape that watches variables would also store what the gradients of weights need.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        values, auxiliary = function(x)
    with derivative_error_context():
        gradient = tape.gradient(values, x)
    if gradient is None:
        raise NoGradientError("TensorFlow", "numpy_function", x.shape, x.dtype.name)
    # The gradient of a gather operation is sparse.
    return (values, auxiliary), tf.convert_to_tensor(gradient)


@contextlib.contextmanager
def derivative_error_context():
    """Explains the error that TensorFlow raises for an operation without a derivative."""
    try:
        yield
    except LookupError as error:
        # The name of a gradient operation ends in "Grad". If this operation has no derivative, the
        # second derivative of the operation of the model is missing.
        name = re.findall(r"\w+", str(error))[-1]
        if name.endswith("Grad"):
            problem = (
                "The objective takes gradients of gradients, and TensorFlow has no second "
                "derivative of an operation of the model. Replace the layer, for example by "
                'Resizing(interpolation="bilinear"), use an objective that takes first '
                'derivatives only, such as "adversarial" or "trades", or the JAX backend'
            )
        else:
            problem = (
                "TensorFlow has no derivative of an operation of the model. Replace the layer, "
                'or use attacks that need no gradient: kr.evaluate(..., attacks="black_box")'
            )
        raise ValueError(f"{problem}. Received: the operation {name}") from error


def uniform(shape, seed, minval=0.0, maxval=1.0):
    """Returns uniform float32 numbers.

    Args:
        shape: shape of the result, `(batch_size, ...)`.
        seed: int32, `(2,)` for the batch or `(batch_size, 2)` for one seed per example.
        minval: float, the lower bound.
        maxval: float, the upper bound.
    """
    return _draw(
        lambda shape, seed: tf.random.stateless_uniform(
            shape, seed, minval, maxval, alg=_GENERATOR
        ),
        shape,
        seed,
    )


def normal(shape, seed):
    """Returns standard normal float32 numbers; see `uniform` for the arguments."""
    return _draw(
        lambda shape, seed: tf.random.stateless_normal(shape, seed, alg=_GENERATOR), shape, seed
    )


def _draw(sampler, shape, seed):
    if len(seed.shape) == 1:
        return sampler(shape, seed)
    draw = tf.autograph.experimental.do_not_convert(lambda one: sampler(shape[1:], one))
    drawn = tf.map_fn(draw, seed, fn_output_signature=tf.float32)
    return tf.ensure_shape(drawn, (None, *drawn.shape[1:]))


def fold_in(seed, number):
    """Returns a new seed `(2,)` from a seed `(2,)` and an integer, or `(n, 2)` from `n` of each."""
    fold = tf.random.experimental.stateless_fold_in
    if len(seed.shape) == 1:
        return fold(seed, number)
    each = tf.autograph.experimental.do_not_convert(lambda pair: fold(*pair))
    return tf.map_fn(each, (seed, number), fn_output_signature=seed.dtype)


def compile_function(function, any_batch_size=False, variables=()):
    """Returns `function` compiled, traced once for each signature of its tensor arguments.

    Args:
        function: function of tensors, or of structures of tensors.
        any_batch_size: bool, whether the first axis of all arguments may have any length, so that a
            new batch size does not cause a new trace.
        variables: ignored, because TensorFlow finds the variables of a function by itself.
    """
    if any_batch_size:
        return _OpenFunction(function)
    # TensorFlow counts traces per code object, and would warn of retracing if several functions
    # with the same code are traced once each. A `partial` has no code object, and is counted by
    # itself.
    separate = functools.partial(function)
    return tf.function(separate, reduce_retracing=True, autograph=False)


class _OpenFunction:
    """A function compiled at its first call, for any length of the first axis."""

    def __init__(self, function):
        self._function = function
        self._compiled = None

    def __call__(self, *arguments):
        """Calls the function with tensors or structures of tensors.

        An argument that was `None` in the first call must be `None` in all calls.
        """
        given = tuple(argument for argument in arguments if argument is not None)
        if self._compiled is None:
            is_given = [argument is not None for argument in arguments]
            # `input_signature` cannot contain `None`.
            self._compiled = tf.function(
                functools.partial(_call, self._function, is_given),
                input_signature=tf.nest.map_structure(_open_spec, given),
                autograph=False,
            )
        return self._compiled(*given)


def _call(function, is_given, *given):
    values = iter(given)
    return function(*(next(values) if is_there else None for is_there in is_given))


def _open_spec(tensor):
    return tf.TensorSpec((None, *tensor.shape[1:]) if tensor.shape.rank else (), tensor.dtype)


def trace_output(function, inputs):
    """Returns the `keras.KerasTensor` of the result of `function` for symbolic `inputs`.

    Keras often infers the outputs of layers from their shapes; here every layer is run.
    """
    specs = tf.nest.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), inputs)
    output = tf.function(function, autograph=False).get_concrete_function(specs).structured_outputs
    return keras.KerasTensor(tuple(output.shape), output.dtype.name)


def host_function(function, x, num_classes):
    """Returns the result of a function on NumPy arrays, which has no gradient.

    Args:
        function: callable that maps arrays in the structure of `x` to a float32 array `(batch_size,
            num_classes)`. Traced code calls it every time that the code runs.
        x: tensor `(batch_size, ...)`, or a structure of tensors.
        num_classes: int.
    """
    leaves = tf.nest.flatten(x)

    def call(*arrays):
        return function(tf.nest.pack_sequence_as(x, [np.asarray(array) for array in arrays]))

    if not any(is_symbolic(leaf) for leaf in leaves):
        # Called directly, the function raises its own errors, without those of the framework.
        return tf.constant(call(*leaves))
    outputs = tf.numpy_function(call, leaves, tf.float32)
    return tf.ensure_shape(outputs, (leaves[0].shape[0], num_classes))


def is_symbolic(x):
    """Returns whether `x` is being traced, so that its values are not known."""
    return isinstance(x, tf.Tensor) and not hasattr(x, "numpy")


def variable_scope(model):
    """Returns the context in which to create variables that are used together with `model`."""
    return model.distribute_strategy.scope()


def double_precision():
    """Returns the context for computations in float64; TensorFlow needs none."""
    return contextlib.nullcontext()


def record_logits(model):
    """Does nothing: on TensorFlow, Keras itself keeps the logits behind probabilities."""
    return contextlib.nullcontext()
