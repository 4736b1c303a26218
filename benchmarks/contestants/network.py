"""The network of all contestants in Keras: two convolutions and a dense layer of 1024."""

import keras
import tensorflow as tf


def build(size=28, policy=None, seed=0):
    """Returns it without compiling it."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Conv2D(32, 5, padding="same", activation="relu", dtype=policy),
        keras.layers.MaxPooling2D(dtype=policy),
        keras.layers.Conv2D(64, 5, padding="same", activation="relu", dtype=policy),
        keras.layers.MaxPooling2D(dtype=policy),
        keras.layers.Flatten(dtype=policy),
        keras.layers.Dense(1024, activation="relu", dtype=policy),
        keras.layers.Dense(10, dtype=policy),
    ]
    return keras.Sequential([keras.Input((size, size, 1)), *layers])


def train_step(model):
    """Returns the compiled step on adversarial examples of those who bring an attack only."""
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    return step


def train(step, data, spec, turn):
    """Calls `step(x, y)` on all batches of every epoch, in turn with the other contestants."""
    batches = tf.data.Dataset.from_tensor_slices(data).batch(spec["batch_size"]).cache().prefetch(2)
    for _ in range(spec["epochs"]):
        turn.wait()
        for x, y in batches:
            step(x, y)
        turn.done()
