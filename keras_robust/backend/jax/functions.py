"""Functions of TensorFlow, as functions of this backend."""


def as_backend_function(function):
    """Returns `function`, or if it is a compiled function of TensorFlow, one that JAX can call.

    Functions of a loaded SavedModel are such: JAX cannot trace them. TensorFlow is imported only
    for them.
    """
    if not type(function).__module__.startswith("tensorflow."):
        return function
    import tensorflow as tf

    from keras_robust.backend.jax.export import from_tf_function

    kinds = tf.types.experimental.PolymorphicFunction, tf.types.experimental.ConcreteFunction
    return from_tf_function(function) if isinstance(function, kinds) else function
