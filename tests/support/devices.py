"""Several devices where there is one CPU."""

import tensorflow as tf


def split(count):
    """Splits the CPU, before TensorFlow starts."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * count
    )


def mirrored(count):
    """Returns a strategy of `count` replicas.

    The sums go through one device: collectives keep the shapes of the first model in a process, and
    fail with those of the next.
    """
    devices = [f"CPU:{index}" for index in range(count)]
    return tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
