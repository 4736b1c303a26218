"""What differs between the backends on which the tests run."""

import contextlib
import ctypes
import gc
import itertools
import os
import pathlib
import platform

import keras
import pytest

from tests.support import tiers

IS_JAX = keras.backend.backend() == "jax"

_MOST_MEMORY = 2 << 30  # Bytes. Above it a worker lets go of what was compiled for earlier tests.
_MOST_MAPS = 30_000  # Linux lets a process map 65,530 pieces of memory; compiled code takes some.
_TESTS = itertools.count(1)

if IS_JAX:
    import jax

    # What fails in compiled code, and what a check of values that can be seen raises.
    HOST_ERROR = jax.errors.JaxRuntimeError
    REFUSED = ValueError
else:
    import tensorflow as tf
    from tensorflow.python.framework import ops
    from tensorflow.python.util import tf_stack

    HOST_ERROR = tf.errors.OpError
    REFUSED = tf.errors.InvalidArgumentError


# On JAX everything is compiled, unless it is to run operation by operation, which takes long.
# By default, without.
with_and_without_xla = tiers.parametrize("jit_compile", [True] if IS_JAX else [False, True])


def tensorflow_only(reason):
    """Returns a mark for tests that are about TensorFlow alone."""
    return pytest.mark.skipif(IS_JAX, reason=f"for TensorFlow only: {reason}")


def traced(function, jit_compile=None, signature=None):
    """Returns `function` compiled by the framework, with nothing of this package in between.

    Args:
        function: of tensors.
        jit_compile: bool, whether TensorFlow uses XLA; JAX always does.
        signature: pairs of shape and dtype, for which TensorFlow traces it; JAX does for each call.
    """
    if IS_JAX:
        return jax.jit(function)
    if signature is not None:
        signature = [tf.TensorSpec(*one) for one in signature]
    return tf.function(
        function, input_signature=signature, jit_compile=jit_compile, autograph=False
    )


def was_traced_once(count, shapes=1):
    """Whether `count` traces are those of one step that met batches of so many shapes.

    JAX traces it anew for each, and once more where it meets variables that were not known.
    """
    return 1 <= count <= shapes + 1 if IS_JAX else count == 1


def eager_loops():
    """Returns the context in which loops run step by step, so that their bodies see values."""
    return jax.disable_jit() if IS_JAX else contextlib.nullcontext()


def observe(function, *tensors):
    """Calls `function` with the values of tensors when traced code runs."""
    if IS_JAX:
        jax.debug.callback(function, *tensors)
    else:
        tf.numpy_function(function, tensors, [])


def jacobian(function, x):
    """Returns the derivatives of all outputs by all inputs, `(*outputs, *inputs)`."""
    if IS_JAX:
        return jax.jacobian(function)(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        values = function(x)
    return tape.jacobian(values, x)


def optimize_less():
    """Spends less time on the optimization of graphs than it would save in a test.

    Most tests run what they trace or compile a few times, on small data. `.ci/exhaustive` has
    TensorFlow optimize as it does for users.
    """
    if IS_JAX:
        jax.config.update("jax_disable_most_optimizations", True)
    else:
        optimize("KERAS_ROBUST_TEST_OPTIMIZED" in os.environ)


def share_one_stack():
    """Gives all operations of TensorFlow one Python stack, that of this call.

    To keep one for each takes a quarter of the time of tracing. What differs is only where an error
    says that its operation was made.
    """
    stack = tf_stack.extract_stack()
    tf_stack.extract_stack = lambda stacklevel=1: stack


def optimize(is_on):
    """Has TensorFlow optimize graphs before they run, or not."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not is_on})


def let_go_of_graphs():
    """Frees what the framework keeps of the functions that earlier tests traced or compiled.

    TensorFlow keeps the gradient of every `tf.custom_gradient` in a traced function for ever, and
    with it the graph: 8 MB for each `fit`. JAX keeps compiled code, which uses up memory and maps.
    """
    if not IS_JAX:
        registered = ops.gradient_registry._registry
        for name in [name for name in registered if name.startswith("CustomGradient-")]:
            del registered[name]
    elif _is_large():
        jax.clear_caches()
        gc.collect()
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)  # Else the freed memory stays with the process.


def _is_large():
    """Whether this process is near a limit of the machine. Always false where there is no /proc."""
    process = pathlib.Path("/proc/self")
    # To look takes as long as a short test.
    if next(_TESTS) % 10 or not process.exists():
        return False
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident > _MOST_MEMORY or (process / "maps").read_bytes().count(b"\n") > _MOST_MAPS
