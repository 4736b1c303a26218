"""Foolbox, which has attacks and no training: its PGD in front of a compiled train step."""

import importlib.metadata

import foolbox
import tensorflow as tf

from benchmarks.contestants import network


def versions():
    return {"Foolbox": importlib.metadata.version("foolbox"), "tensorflow": tf.__version__}


def run(spec, data, turn):
    """Trains; the model that Foolbox attacks is compiled, which is the fastest way to use it."""
    model = network.build(spec["size"])
    train_step = network.train_step(model)
    compiled = tf.function(lambda x: model(x, training=False))
    attacked = foolbox.TensorFlowModel(compiled, bounds=(0.0, 1.0))
    epsilon, num_steps = spec["epsilon"], spec["num_steps"]
    attack = foolbox.attacks.LinfPGD(abs_stepsize=2.5 * epsilon / num_steps, steps=num_steps)

    def step(x, y):
        train_step(attack.run(attacked, x, y, epsilon=epsilon), y)

    x, y = data
    network.train(step, (x, y.astype("int32")), spec, turn)
