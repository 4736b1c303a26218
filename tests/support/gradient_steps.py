"""A linear model in the hands of a `training.GradientStep`, and softmax regression in float64."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import training
from tests.support import forward_passes

X, X_ADV, Y = forward_passes.X, forward_passes.X_ADV, forward_passes.Y


RATE = 0.5


def linear(optimizer=None, loss=None, before=(), after=(), **dense):
    """A linear model, and its head in float64."""
    head = keras.layers.Dense(3, **dense)
    model = keras.Sequential([keras.Input((6,)), *before, head, *after])
    model.compile(
        optimizer or keras.optimizers.SGD(RATE),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model, [np.asarray(weight).astype("float64") for weight in head.trainable_weights]


def gradient_step(model, **arguments):
    checks = {} if "checks" not in arguments else {"checks_outputs": arguments.pop("checks")}
    return training.GradientStep(
        forward_passes.CountedClassifier(model), forward_passes.batch(**arguments), **checks
    )


def found(x_adv=X_ADV):
    return kr.attacks.AttackResult.unattacked(keras.ops.convert_to_tensor(x_adv))


def mixed(clean, adversarial):
    return 0.3 * clean.loss + 0.7 * adversarial.loss


def adversarial(clean, adversarial):
    return adversarial.loss


def softmax_regression(weights, shares, sample_weight=None):
    """Loss, gradients and the gradient of each row of X_ADV; `shares` of both cross-entropies."""
    kernel, bias = weights
    sample_weight = np.ones(len(X)) if sample_weight is None else sample_weight
    loss, of_kernel, of_bias = 0.0, 0.0, 0.0
    for share, x in zip(shares, (X.astype("float64"), X_ADV.astype("float64")), strict=True):
        z = x @ kernel + bias
        wrong = (
            (np.exp(forward_passes.log_softmax(z)) - np.eye(3)[Y]) * sample_weight[:, None] / len(x)
        )
        loss += share * np.mean(forward_passes.cross_entropy(z) * sample_weight)
        of_kernel, of_bias = of_kernel + share * x.T @ wrong, of_bias + share * wrong.sum(axis=0)
    return loss, of_kernel, of_bias, shares[1] * wrong @ kernel.T


def assert_result(result, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-5, "atol": 1e-6}
    assert float(result.loss) == pytest.approx(expected[0], rel=1e-5)
    for found, wanted in zip(result.gradients, expected[1:3], strict=True):
        np.testing.assert_allclose(found, wanted, **tolerance)
    np.testing.assert_allclose(result.input_gradient, expected[3], **tolerance)


def noisy():
    """A model with all the state that a pass in training mode changes."""
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model, _ = linear(before=[keras.layers.Dense(5), norm, keras.layers.Dropout(0.5)])
    return model, norm


def state(model):
    """The values of all weights, statistics and seeds."""
    return [np.array(variable) for variable in model.variables]


def assert_same(one, other):
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)
