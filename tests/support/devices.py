"""Several devices where there is one CPU; `conftest.py` splits it."""

import tensorflow as tf


def mirrored(count):
    """Returns a strategy of `count` replicas.

    The sums go through one device: collectives keep the shapes of the first model in a process, and
    fail with those of the next.
    """
    devices = [f"CPU:{index}" for index in range(count)]
    return tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
