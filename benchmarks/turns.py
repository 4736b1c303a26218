"""Contestants that take turns in one process, an epoch each, so that noise hits all of them.

What is measured is processor time, which other programs on the machine disturb least.
"""

import statistics
import threading
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.contestants import network


def build():
    """Returns the compiled network that all contestants train."""
    model = network.build()
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Turns(keras.callbacks.Callback):
    """Lets contestants in threads of their own run one epoch at a time, in turn."""

    def __init__(self, name, names, condition, state):
        super().__init__()
        self.name, self.names = name, names
        self.condition, self.state = condition, state
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.wait()

    def on_epoch_end(self, epoch, logs=None):
        self.done()

    def wait(self):
        with self.condition:
            mine = self.names.index(self.name)
            self.condition.wait_for(lambda: self.state["turn"] % len(self.names) == mine)
        self.start = time.process_time()

    def done(self):
        self.seconds.append(time.process_time() - self.start)
        with self.condition:
            self.state["turn"] += 1
            self.condition.notify_all()


def fit(callbacks):
    """Returns a contestant: Keras's `fit` with some callbacks."""

    def run(data, rounds, turns):
        build().fit(data, epochs=rounds, verbose=0, shuffle=False, callbacks=[*callbacks, turns])

    return run


def measure(contestants, data, rounds):
    """Runs the contestants in turn; returns the CPU seconds of each epoch but the first."""
    names = list(contestants)
    condition, state = threading.Condition(), {"turn": 0}
    turns = {name: Turns(name, names, condition, state) for name in names}
    threads = [
        threading.Thread(target=contestants[name], args=(data, rounds, turns[name]))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: turns[name].seconds[1:] for name in names}


def summarise(seconds, steps, reference):
    """Returns, by name, the median milliseconds a step, and the median ratio to the reference."""
    return {
        name: {
            "cpu_milliseconds": round(1e3 * statistics.median(times) / steps, 2),
            "ratio": round(
                statistics.median(t / r for t, r in zip(times, seconds[reference], strict=True)),
                3,
            ),
        }
        for name, times in seconds.items()
    }


def random_images(steps, batch_size):
    """Returns a `tf.data.Dataset` of random 28 x 28 images with random labels."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(steps * batch_size, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, size=len(x))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True)
    # The thread that tunes an iterator may never end where many are made and thrown away at a time.
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
