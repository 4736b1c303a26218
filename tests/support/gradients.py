"""Gradients of any function, on the backend of the tests."""

import keras
import numpy as np

if keras.backend.backend() == "jax":
    import jax

    from keras_robust.backend.jax.scope import Scope
    from keras_robust.backend.jax.scope import assign
else:
    import tensorflow as tf


def of(function, sources, weights=1.0):
    """Returns what `function` gives, and the gradients of its weighted sum.

    On some backends a gradient that is not there is `None`, on others it is zero.

    Args:
        function: callable of tensors `sources`, or without arguments if these are variables.
        sources: an array, tensor or variable, or a list of them, in the form of which the gradients
            come.
        weights: array that broadcasts against what `function` gives.
    """
    leaves = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    are_variables = all(isinstance(leaf, keras.Variable) for leaf in leaves)
    if not are_variables:
        leaves = [keras.ops.convert_to_tensor(leaf) for leaf in leaves]
    run = _with_vjp if keras.backend.backend() == "jax" else _with_tape
    value, gradients = run(function, leaves, are_variables, weights)
    return value, gradients if isinstance(sources, (list, tuple)) else gradients[0]


def _with_tape(function, leaves, are_variables, weights):
    with tf.GradientTape() as tape:
        tape.watch([leaf.value if are_variables else leaf for leaf in leaves])
        value = function() if are_variables else function(*leaves)
        total = value * weights
    return value, tape.gradient(total, [leaf.value if are_variables else leaf for leaf in leaves])


def _with_vjp(function, leaves, are_variables, weights):
    assigned = []

    def run(values):
        pairs = zip(leaves, values, strict=True) if are_variables else ()
        with Scope(pairs) as scope:
            value = function() if are_variables else function(*values)
        assigned.extend(scope.assigned)
        return value, scope.values_of(assigned)

    values = [jax.numpy.asarray(leaf) for leaf in leaves]
    value, pull_back, updates = jax.vjp(run, values, has_aux=True)
    assign(assigned, updates)
    (gradients,) = pull_back(jax.numpy.ones_like(value) * weights)
    if any(isinstance(gradient, jax.core.Tracer) for gradient in gradients):
        return value, gradients
    return value, [np.asarray(gradient) for gradient in gradients]
