"""TensorFlow: input gradients, loops, stateless random numbers, compiled functions, checks."""

import contextlib
import functools
import re

import keras
import numpy as np
import tensorflow as tf

from keras_robust.backend.errors import NoGradientError
from keras_robust.backend.keras_internals import cross_device_ops

END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)
# Whether a layer that rejects an input can raise an error from compiled code.
RAISES_IN_GRAPHS = True

_UNROLL = 10
# Nodes of a step from which on straight code takes long to compile, and gains nothing.
_LARGE = 500
cond, fori_loop, while_loop = keras.ops.cond, keras.ops.fori_loop, keras.ops.while_loop
_MARK = "keras_robust: "
_STRATEGIES = ("_DefaultDistributionStrategy", "MirroredStrategy", "OneDeviceStrategy")
# Named, so that a TensorFlow that chooses otherwise draws the same numbers.
_GENERATOR = "philox"


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
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        values, auxiliary = function(x)
    with derivative_error_context():
        gradient = tape.gradient(values, x)
    if gradient is None:
        raise NoGradientError("TensorFlow", "numpy_function", x.shape, x.dtype.name)
    return (values, auxiliary), tf.convert_to_tensor(gradient)


@contextlib.contextmanager
def derivative_error_context():
    """Says what to do where an operation has no derivative, or none of its derivative."""
    try:
        yield
    except LookupError as error:
        name = re.findall(r"\w+", str(error))[-1]
        if name.endswith("Grad"):
            problem = (
                "The objective takes gradients of gradients, and TensorFlow has no second "
                "derivative of an operation of the model. Put another layer in its place, such as "
                'Resizing(interpolation="bilinear") for any other, use an objective that takes '
                'first derivatives alone, such as "adversarial" or "trades", or the JAX backend'
            )
        else:
            problem = (
                "TensorFlow has no derivative of an operation of the model. Put another layer in "
                'its place, or use attacks that need none: kr.evaluate(..., attacks="black_box")'
            )
        raise ValueError(f"{problem}. Received: the operation {name}") from error


def repeat(num_steps, body, state):
    """Returns `state` after `num_steps` calls of `state = body(step, state)`.

    In a graph `body` is traced once. Short loops of it are unrolled, because TensorFlow optimises
    straight code better than a loop; of longer ones, blocks of ten are unrolled inside a loop. A
    large step is not unrolled: that takes long to compile, and no loop costs what it computes.
    """
    unroll = _UNROLL
    if num_steps > 1 and not tf.executing_eagerly():
        body = _TracedOnce(body)
        state = tf.nest.map_structure(tf.convert_to_tensor, state)
        unroll = 1 if body.size(state) > _LARGE else _UNROLL
    blocks, rest = divmod(num_steps, unroll)
    if blocks == 1:
        blocks, rest = 0, num_steps

    def run(first, count, state):
        for step in range(count):
            state = body(first + step, state)
        return state

    if blocks:
        _, state = tf.while_loop(
            lambda block, _: block < blocks,
            lambda block, state: (block + 1, run(block * unroll, unroll, state)),
            (tf.constant(0), state),
            maximum_iterations=blocks,
            parallel_iterations=1,
        )
    return run(blocks * unroll, rest, state)


class _TracedOnce:
    """The body of a loop, as a function that TensorFlow inlines wherever it is called."""

    def __init__(self, body):
        def step(number, state):
            return body(number, state)

        self._compiled = tf.function(step, autograph=False)

    def __call__(self, number, state):
        return self._compiled(tf.convert_to_tensor(number, "int32"), state)

    def size(self, state):
        """Returns the number of its nodes, those of loops within it among them."""
        specs = tf.nest.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), state)
        traced = self._compiled.get_concrete_function(tf.TensorSpec((), "int32"), specs)
        graph = traced.graph.as_graph_def()
        return len(graph.node) + sum(len(one.node_def) for one in graph.library.function)


def uniform(shape, seed, minval=0.0, maxval=1.0):
    """Uniform float32 numbers; `seed` `(2,)` for the batch or `(batch_size, 2)` per example."""
    return _draw(
        lambda shape, seed: tf.random.stateless_uniform(
            shape, seed, minval, maxval, alg=_GENERATOR
        ),
        shape,
        seed,
    )


def normal(shape, seed):
    """Standard normal float32 numbers; `seed` `(2,)` or `(batch_size, 2)` as in `uniform`."""
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
    """Returns a new seed `(2,)` from a seed `(2,)` and an integer."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def compile_function(function, any_batch_size=False, variables=()):
    """Returns `function` compiled, traced once for each signature of its tensor arguments.

    Args:
        function: function of tensors, or of structures of them.
        any_batch_size: bool, whether the first axis of all arguments stays open, so that batches of
            other sizes are no reason to trace anew.
        variables: of no use here, where a trace finds them by itself.
    """
    if any_batch_size:
        return _OpenFunction(function)
    # TensorFlow counts traces by code object, and would warn of retracing where several functions
    # of one code are traced once each. A `partial` has none, so that it is counted by itself.
    separate = functools.partial(function)
    return tf.function(separate, reduce_retracing=True, autograph=False)


class _OpenFunction:
    """A function compiled at its first call, for first axes of any length."""

    def __init__(self, function):
        self._function = function
        self._compiled = None

    def __call__(self, *arguments):
        """Calls it with tensors, structures of tensors, or `None` where it was so at first."""
        given = tuple(argument for argument in arguments if argument is not None)
        if self._compiled is None:
            is_given = [argument is not None for argument in arguments]
            # A signature takes no `None`.
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
    """Returns a `keras.KerasTensor` for what `function` gives, from such tensors as its inputs.

    Keras often knows the outputs of layers from their shapes; here every one of them is run.
    """
    specs = tf.nest.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), inputs)
    output = tf.function(function, autograph=False).get_concrete_function(specs).structured_outputs
    return keras.KerasTensor(tuple(output.shape), output.dtype.name)


def host_function(function, x, num_classes):
    """Returns what a function on NumPy arrays gives, which has no gradient.

    Args:
        function: callable that maps arrays in the structure of `x` to a float32 array
            `(batch_size, num_classes)`. In traced code it is called when that runs.
        x: tensor `(batch_size, ...)`, or a structure of such.
        num_classes: int.
    """
    leaves = tf.nest.flatten(x)

    def call(*arrays):
        return function(tf.nest.pack_sequence_as(x, [np.asarray(array) for array in arrays]))

    if not any(is_symbolic(leaf) for leaf in leaves):
        # Errors then come as they are raised.
        return tf.constant(call(*leaves))
    outputs = tf.numpy_function(call, leaves, tf.float32)
    return tf.ensure_shape(outputs, (leaves[0].shape[0], num_classes))


def is_symbolic(x):
    """Whether `x` is being traced, so that its values cannot be looked at."""
    return isinstance(x, tf.Tensor) and not hasattr(x, "numpy")


def variable_scope(model):
    """Returns the context in which variables beside those of `model` are made."""
    return model.distribute_strategy.scope()


def double_precision():
    """Returns the context in which computations may be in float64: here all may."""
    return contextlib.nullcontext()


def refuse_distribution(model):
    """Says what to do about a distribution under which Keras on TensorFlow fails, or trains alone.

    Raises:
        ValueError: for `keras.distribution`, several workers, and, under several replicas,
            `steps_per_execution` and gradient accumulation.
    """
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            "`keras.distribution` does not distribute on the TensorFlow backend: every device "
            "would be idle but one, without a word. Use tf.distribute.MirroredStrategy for the "
            "GPUs of one machine, or the JAX backend, KERAS_BACKEND=jax, for several machines. "
            f"Received: {type(distribution).__name__} with KERAS_BACKEND=tensorflow"
        )
    strategy = model.distribute_strategy
    name, replicas = type(strategy).__name__, strategy.num_replicas_in_sync
    if name not in _STRATEGIES:
        raise ValueError(
            "Keras 3 cannot train under this strategy: of those of TensorFlow, `fit` works with "
            "tf.distribute.MirroredStrategy, on one machine. For several machines use the JAX "
            "backend, KERAS_BACKEND=jax, with keras.distribution.DataParallel. "
            f"Received: {name} with {replicas} replicas"
        )
    if replicas == 1:
        return
    sums = cross_device_ops(strategy)
    collective = not isinstance(sums, tf.distribute.ReductionToOneDevice)
    if model.steps_per_execution != 1 and collective:
        raise ValueError(
            "TensorFlow's collective sums over replicas fail inside of several steps at once. Use "
            "steps_per_execution=1, or a strategy with "
            "cross_device_ops=tf.distribute.ReductionToOneDevice(). Received: "
            f"steps_per_execution={model.steps_per_execution} with {replicas} replicas and "
            f"cross_device_ops={type(sums).__name__}"
        )
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise ValueError(
            "Keras cannot accumulate gradients under a strategy of several replicas. Use larger "
            "batches, or one device. Received: gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps} with {replicas} replicas"
        )


def record_logits(model):
    """Does nothing: Keras keeps the logits behind probabilities itself."""
    return contextlib.nullcontext()


def require(condition, template, *values):
    """Returns an op that fails with `template.format(*values)` unless `condition` holds.

    The op must be made a control dependency. XLA drops it: call this outside of compiled code.
    """
    texts = template.split("{}")
    pieces = [_MARK + texts[0]]
    for value, text in zip(values, texts[1:], strict=True):
        pieces += [_text(value), text]
    return tf.debugging.Assert(condition, [tf.strings.join([*pieces, "\n"])])


def require_all(conditions, message, x):
    """Returns `x`, and fails with `message` when it is computed unless all `conditions` hold.

    XLA, and formats other than those of TensorFlow, drop the check and return `x`.
    """
    # The text of `require` has operations that XLA cannot compile; this one is a constant.
    check = tf.debugging.Assert(tf.reduce_all(conditions), [f"{_MARK}{message}\n"])
    with tf.control_dependencies([check]):
        return tf.identity(x)


def _text(value):
    if value.dtype.is_floating:
        return tf.strings.as_string(value, shortest=True)
    return tf.strings.as_string(value)


def required_message(error):
    """Returns the message of a failed `require` inside a TensorFlow error, or `None`.

    Also for mistakes that only ops notice.
    """
    found = re.search(re.escape(_MARK) + r"(.*?)(\\n|\n|$)", str(error))
    if found:
        return found.group(1)
    found = re.search(
        r"label value of (-?\d+) .* outside the valid range of \[0, (\d+)\)", str(error)
    )
    if found:
        last = int(found.group(2)) - 1
        return (
            f"Labels must be class indices from 0 to {last}. Received: the label {found.group(1)}"
        )
    found = re.search(r"Incompatible shapes: (\[[\d,]*\] vs. \[[\d,]*\])", str(error))
    if found:
        return (
            "Outputs, labels and sample weights do not fit together under the compiled loss. "
            f"Received: arrays of shapes {found.group(1)}"
        )
    # Said of the gradient of a convolution, or of the convolution if no graph was optimized.
    found = re.search(
        r"same size and shape\. +Input 0: (\S+) != input 1: (\S+)"
        r"|as many biases as the last dimension of the input tensor: (\S+) vs\. (\S+)",
        str(error),
    )
    shapes = [shape for shape in found.groups() if shape] if found else []
    if any(re.match(r"\[0[],]", shape) for shape in shapes):
        return (
            "A batch leaves a replica without examples, at which TensorFlow fails. Choose a batch "
            "size that the replicas divide, and leave out the rows that remain: "
            "`x[: len(x) // batch_size * batch_size]`, or `drop_remainder=True` in `tf.data`. "
            f"Received: arrays of shapes {' and '.join(shapes)}"
        )
    return None
