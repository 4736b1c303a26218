"""The Adversarial Robustness Toolbox: `AdversarialTrainerMadryPGD`."""

import importlib.metadata

import keras
import numpy as np
import tensorflow as tf
from art.defences.trainer import AdversarialTrainerMadryPGD
from art.estimators.classification import TensorFlowV2Classifier

from benchmarks.contestants import network


def versions():
    art = importlib.metadata.version("adversarial-robustness-toolbox")
    return {"ART": art, "tensorflow": tf.__version__}


def run(spec, data, turn):
    """Trains with what `AdversarialTrainerMadryPGD` does by itself, but for its progress bars.

    It attacks 32 examples at a time, and makes a train step that it traces anew for every batch.
    With `compiled`, it attacks whole batches, and is given a train step that is traced once.
    """
    model = network.build(spec["size"])
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)

    @tf.function
    def train_step(model, x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    classifier = TensorFlowV2Classifier(
        model=model,
        nb_classes=10,
        input_shape=(spec["size"], spec["size"], 1),
        loss_object=loss,
        optimizer=optimizer,
        train_step=train_step if spec.get("compiled") else None,
        clip_values=(0.0, 1.0),
    )
    epsilon, num_steps = spec["epsilon"], spec["num_steps"]
    trainer = AdversarialTrainerMadryPGD(
        classifier,
        nb_epochs=1,
        batch_size=spec["batch_size"],
        eps=epsilon,
        eps_step=2.5 * epsilon / num_steps,
        max_iter=num_steps,
    )
    trainer.attack.set_params(verbose=False)
    if spec.get("compiled"):
        trainer.attack.set_params(batch_size=spec["batch_size"])
    x, y = data
    y = np.eye(10, dtype="float32")[y]
    for _ in range(spec["epochs"]):
        turn.wait()
        trainer.fit(x, y)
        turn.done()
