"""Functions of TensorFlow, as functions of this backend."""


def as_backend_function(function):
    """Returns `function`, or if it is a compiled function of TensorFlow, one that JAX can call.

    The functions of a loaded SavedModel are compiled by TensorFlow, and JAX cannot trace them. Only
    such a function makes this backend import TensorFlow.
    """
    if not type(function).__module__.startswith("tensorflow."):
        return function
    import tensorflow as tf

    from keras_robust.backend.jax.export import from_tf_function

    kinds = tf.types.experimental.PolymorphicFunction, tf.types.experimental.ConcreteFunction
    return from_tf_function(function) if isinstance(function, kinds) else function
