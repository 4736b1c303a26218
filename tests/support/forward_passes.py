"""Forward passes of the reference network, and the paper's terms for them in float64 NumPy."""

import keras
import numpy as np

import keras_robust as kr
from keras_robust import models
from keras_robust import training
from tests.support import numpy_reference

X = np.random.default_rng(8).uniform(0.1, 0.9, size=(4, numpy_reference.FEATURES)).astype("float32")
X_ADV = (X + 0.1 * np.random.default_rng(9).normal(size=X.shape)).astype("float32")
Y = np.array([2, 0, 1, 2])
BALL = kr.threat_models.Linf(0.1)
SEED = (3, 4)
SAMPLE_WEIGHT = np.array([0.5, 2.0, 0.0, 1.25], "float32")


class CountedClassifier(models.Classifier):
    """Counts its calls."""

    num_calls = 0

    def __call__(self, x, training=False):
        self.num_calls += 1
        return super().__call__(x, training=training)


def model(penalty=0.0):
    """The reference network, compiled; `penalty` weighs a regulariser of its last kernel."""
    network = numpy_reference.keras_model()
    if penalty:
        network.layers[-1].kernel_regularizer = keras.regularizers.L2(penalty)
        network.layers[-1].kernel.regularizer = network.layers[-1].kernel_regularizer
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return network


def batch(x=X, y=Y, sample_weight=None, ball=BALL, iteration=0, seed=SEED):
    """Returns the `Batch` that a train step would make of the arguments."""
    weight = None if sample_weight is None else keras.ops.convert_to_tensor(sample_weight)
    return training.Batch(
        keras.ops.convert_to_tensor(x),
        keras.ops.convert_to_tensor(y),
        weight,
        ball,
        keras.ops.convert_to_tensor(iteration, "int32"),
        keras.ops.convert_to_tensor(seed, "int32"),
    )


def forward_passes(network, x=X, x_adv=X_ADV, y=Y, sample_weight=None, found=None, **circumstances):
    """Returns the clean and the adversarial pass of a batch, made as `batch` makes it."""
    classifier = CountedClassifier(network)
    clean = batch(x, y, sample_weight, **circumstances)
    adversarial = clean._replace(x=keras.ops.convert_to_tensor(x_adv))
    found = found or kr.attacks.AttackResult.unattacked(adversarial.x)
    return training.ForwardPass(classifier, clean), training.ForwardPass(
        classifier, adversarial, found
    )


def log_softmax(z):
    """The logarithm of softmax, by rows."""
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def cross_entropy(z, y=Y):
    """The cross-entropy of each row of logits."""
    return -log_softmax(z)[np.arange(len(y)), y]


def kl_divergence(z, z_adv):
    """KL(softmax z || softmax z_adv) of each row."""
    log_p, log_q = log_softmax(z), log_softmax(z_adv)
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)


def mean(values, sample_weight=None):
    """The mean as Keras reduces losses: weights do not change the divisor."""
    weight = np.ones(len(values)) if sample_weight is None else sample_weight.astype("float64")
    return np.sum(values * weight) / len(values)


def slope(function, size=1e-6):
    """The derivative of `function(s)` at `s = 1`, by central differences."""
    return (function(1.0 + size) - function(1.0 - size)) / (2.0 * size)
