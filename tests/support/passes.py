"""A layer that changes a state and draws a number, and a pass through it that is put back."""

import keras

from keras_robust.backend import inference_pass


class Passing(keras.layers.Layer):
    """Changes a state and draws a number."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x + self.count + keras.random.normal((), seed=self.seeds)


def run(passing, x):
    with inference_pass() as put_back:
        outputs = passing(x)
    assert put_back == [passing.count]
    return outputs


def layer():
    passing = Passing()
    passing.build((None, 2))
    return passing
