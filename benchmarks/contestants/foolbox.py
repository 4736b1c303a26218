"""Foolbox, which has attacks and no training: its PGD in front of a compiled train step."""

import importlib.metadata

import foolbox
import keras
import tensorflow as tf

from benchmarks.contestants import network


def versions():
    return {"Foolbox": importlib.metadata.version("foolbox"), "tensorflow": tf.__version__}


def run(spec, data, turn):
    """Trains; the model that Foolbox attacks is compiled, which is the fastest way to use it."""
    model = network.build(spec["size"])
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled = tf.function(lambda x: model(x, training=False))
    attacked = foolbox.TensorFlowModel(compiled, bounds=(0.0, 1.0))
    epsilon, num_steps = spec["epsilon"], spec["num_steps"]
    attack = foolbox.attacks.LinfPGD(abs_stepsize=2.5 * epsilon / num_steps, steps=num_steps)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    x, y = data
    batches = tf.data.Dataset.from_tensor_slices((x, y.astype("int32")))
    batches = batches.batch(spec["batch_size"]).cache().prefetch(2)
    for _ in range(spec["epochs"]):
        turn.wait()
        for x, y in batches:
            train_step(attack.run(attacked, x, y, epsilon=epsilon), y)
        turn.done()
