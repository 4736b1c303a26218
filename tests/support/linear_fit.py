"""Adversarial training of a linear softmax model with FGSM and SGD, in NumPy float64."""

import keras
import numpy as np
import tensorflow as tf

import keras_robust as kr

NUM_EXAMPLES, NUM_FEATURES, NUM_CLASSES = 22, 4, 3
BATCH_SIZE = 8
LEARNING_RATE = 0.5
EPSILON = 0.1


def data(count=NUM_EXAMPLES):
    """Inputs that touch both bounds, and labels."""
    rng = np.random.default_rng(3)
    x = rng.beta(0.6, 0.6, size=(count, NUM_FEATURES)).astype("float32")
    return x, rng.integers(0, NUM_CLASSES, size=count)


def dataset():
    """The same data in batches."""
    return tf.data.Dataset.from_tensor_slices(data()).batch(BATCH_SIZE)


def initial_weights():
    """The weights that every model here starts from."""
    return np.random.default_rng(4).normal(size=(NUM_FEATURES, NUM_CLASSES)).astype("float32")


def make_model(layers=(), optimizer=None, loss=None, **compile_arguments):
    """Returns a compiled linear model without bias, with the initial weights."""
    head = keras.layers.Dense(NUM_CLASSES, use_bias=False)
    model = keras.Sequential([keras.Input((NUM_FEATURES,)), *layers, head])
    head.set_weights([initial_weights()])
    model.compile(
        optimizer or keras.optimizers.SGD(LEARNING_RATE),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    return model


def adv_train(epsilon=EPSILON, **arguments):
    """The callback whose every number is known: FGSM, no random start, no warm-up."""
    arguments = {"attack": "fgsm", "warmup": 0, **arguments}
    return kr.AdvTrain(kr.Linf(epsilon), **arguments)


def fit(model, callback, x=None, y=None, **arguments):
    """Fits with one callback, in the order of the data; by default those of `data`."""
    x, y = data() if x is None else (x, y)
    arguments = {"batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, y, callbacks=[callback], **arguments)


def weights(model):
    """The kernel of the last layer."""
    return model.layers[-1].get_weights()[0]


def softmax(logits):
    """Rows of probabilities."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def fgsm(x, y, weights, epsilon):
    """The adversarial examples of one batch."""
    gradient = (softmax(x @ weights) - np.eye(NUM_CLASSES)[y]) @ weights.T
    return np.clip(x + epsilon * np.sign(gradient), 0.0, 1.0)


def expected(x, y, sample_weight=None, *, epochs=1, epsilon=lambda step: EPSILON, alpha=0.0):
    """Returns the weights after training in the order of the data, and the logs of each epoch.

    The loss is `alpha * clean + (1 - alpha) * adversarial`; accuracies are taken before each step.
    """
    x, weights, step, logs = x.astype("float64"), initial_weights().astype("float64"), 0, []
    sample_weight = np.ones(len(x)) if sample_weight is None else sample_weight
    for _ in range(epochs):
        sums = {"loss": 0.0, "accuracy": 0.0, "adv_accuracy": 0.0}
        for start in range(0, len(x), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            xb, yb, wb = x[rows], y[rows], sample_weight[rows]
            x_adv = fgsm(xb, yb, weights, epsilon(step))
            gradient, loss = 0.0, 0.0
            for share, inputs in ((alpha, xb), (1.0 - alpha, x_adv)):
                p = softmax(inputs @ weights)
                error = (p - np.eye(NUM_CLASSES)[yb]) * wb[:, None] / len(xb)
                gradient = gradient + share * inputs.T @ error
                loss -= share * np.mean(wb * np.log(p[np.arange(len(xb)), yb]))
            sums["loss"] += loss * len(xb)
            sums["accuracy"] += np.sum(wb * (np.argmax(xb @ weights, 1) == yb))
            sums["adv_accuracy"] += np.sum(np.argmax(x_adv @ weights, 1) == yb)
            weights = weights - LEARNING_RATE * gradient
            step += 1
        logs.append({name: value / len(x) for name, value in sums.items()})
    return weights, logs
