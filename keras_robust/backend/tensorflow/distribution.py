"""TensorFlow: distributions of the training that Keras does not support."""

import keras
import tensorflow as tf

from keras_robust.backend.keras_internals import cross_device_ops

_STRATEGIES = ("_DefaultDistributionStrategy", "MirroredStrategy", "OneDeviceStrategy")


def refuse_distribution(model):
    """Raises ValueError for a distribution that Keras on TensorFlow does not support.

    Raises:
        ValueError: for `keras.distribution`, for several workers, and, with several replicas, for
            `steps_per_execution` and gradient accumulation.
    """
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            "`keras.distribution` does not distribute on the TensorFlow backend: all devices "
            "except one would be idle, without a warning. Use tf.distribute.MirroredStrategy for "
            "the GPUs of one machine, or the JAX backend, KERAS_BACKEND=jax, for several "
            f"machines. Received: {type(distribution).__name__} with KERAS_BACKEND=tensorflow"
        )
    strategy = model.distribute_strategy
    name, replicas = type(strategy).__name__, strategy.num_replicas_in_sync
    if name not in _STRATEGIES:
        raise ValueError(
            "Keras 3 cannot train under this strategy. `fit` works with "
            "tf.distribute.MirroredStrategy, on one machine. For several machines use the JAX "
            f"backend, KERAS_BACKEND=jax, with keras.distribution.DataParallel. Received: {name} "
            f"with {replicas} replicas"
        )
    if replicas == 1:
        return
    sums = cross_device_ops(strategy)
    collective = not isinstance(sums, tf.distribute.ReductionToOneDevice)
    if model.steps_per_execution != 1 and collective:
        raise ValueError(
            "TensorFlow's collective sums over replicas fail when one call runs several steps. "
            "Use steps_per_execution=1, or a strategy with "
            "cross_device_ops=tf.distribute.ReductionToOneDevice(). Received: "
            f"steps_per_execution={model.steps_per_execution} with {replicas} replicas and "
            f"cross_device_ops={type(sums).__name__}"
        )
    # A loss scaling optimizer wraps the optimizer of the user.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise ValueError(
            "Keras cannot accumulate gradients under a strategy of several replicas. Use larger "
            "batches, or one device. Received: gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps} with {replicas} replicas"
        )
