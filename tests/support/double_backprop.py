"""The reference network as a function of its weights, for penalties on its input gradients."""

import keras
import numpy as np

from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference

WEIGHTS = (*numpy_reference.HIDDEN, *numpy_reference.HEAD)
_RNG = np.random.default_rng(12)
_DIRECTION = [_RNG.normal(size=weight.shape) for weight in WEIGHTS]


def forward(weights, x):
    """The logits, `(n, 3)`, and their Jacobians with respect to the input, `(n, 3, 6)`."""
    hidden = np.tanh(x @ weights[0] + weights[1])
    jacobian = np.einsum("fk,nk,kc->ncf", weights[0], 1.0 - hidden**2, weights[2])
    return hidden @ weights[2] + weights[3], jacobian


def input_gradient(weights, x, y):
    """The gradient of the cross-entropy of each example with respect to its input, `(n, 6)`."""
    z, jacobian = forward(weights, x)
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p = p / p.sum(axis=-1, keepdims=True)
    return np.einsum("nc,ncf->nf", p - np.eye(3)[y], jacobian)


def expected_slope(function, size=1e-5):
    """The derivative of `function(weights)` along a fixed direction, by central differences."""
    up, down = (
        function([w + sign * size * d for w, d in zip(WEIGHTS, _DIRECTION, strict=True)])
        for sign in (1.0, -1.0)
    )
    return (up - down) / (2.0 * size)


def assert_leaves_layers_still(objective, x):
    """Asserts that the penalty draws no dropout, and BatchNorm sees only `x`, in the outer pass."""
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    layers = [shape, norm, keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    objective.loss(*forward_passes.forward_passes(model))
    np.testing.assert_allclose(norm.moving_mean, 0.1 * x.mean(0), rtol=1e-5)
    first, again = (
        np.array(objective.penalty(*forward_passes.forward_passes(model))) for _ in range(2)
    )
    assert np.all(first > 0.0)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * x.mean(0), rtol=1e-5)


def slope(function, model):
    """The derivative of `function()` along the same direction, by backpropagation."""

    def compute():
        return function()

    value, slopes = gradients.of(compute, model.trainable_weights)
    # What the function does not depend on, such as the last bias, has no gradient.
    pairs = zip(slopes, _DIRECTION, strict=True)
    return sum(np.sum(np.asarray(g, "float64") * d) for g, d in pairs if g is not None)
