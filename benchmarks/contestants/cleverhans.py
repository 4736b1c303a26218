"""CleverHans: the loop of its tutorial for TensorFlow 2, and the same in one compiled function."""

import importlib.metadata

import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from benchmarks.contestants import network


def versions():
    cleverhans = importlib.metadata.version("cleverhans")
    return {"CleverHans": cleverhans, "tensorflow": tf.__version__}


def run(spec, data, turn):
    """Trains; with `compiled`, attack and step are one function, which its tutorial does not do."""
    model = network.build(spec["size"])
    train_step = network.train_step(model)
    epsilon, num_steps = spec["epsilon"], spec["num_steps"]

    def attack(x, y):
        return projected_gradient_descent(
            model,
            x,
            epsilon,
            2.5 * epsilon / num_steps,
            num_steps,
            np.inf,
            clip_min=0.0,
            clip_max=1.0,
            y=y,
            rand_init=1.0,
            sanity_checks=False,
        )

    def step(x, y):
        train_step(attack(x, y), y)

    if spec.get("compiled"):
        step = tf.function(step)
    network.train(step, data, spec, turn)
