"""Float64 NumPy references: a small network with its gradient, projections, gradient attacks."""

import keras
import numpy as np
from scipy import optimize

FEATURES = 6
_RNG = np.random.default_rng(3)
HIDDEN = (_RNG.normal(size=(FEATURES, 8)), 0.3 * _RNG.normal(size=8))
HEAD = (_RNG.normal(size=(8, 3)), 0.3 * _RNG.normal(size=3))


def keras_model():
    """The network `tanh(x W1 + b1) W2 + b2` as a Keras model."""
    layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers])
    for layer, weights in zip(layers, (HIDDEN, HEAD), strict=True):
        layer.set_weights(weights)
    return model


def logits(x):
    """The logits of the network, `(n, 3)`."""
    return np.tanh(x @ HIDDEN[0] + HIDDEN[1]) @ HEAD[0] + HEAD[1]


def examples(count=5):
    """Inputs in (0, 1), and the classes that the network gives."""
    x = np.random.default_rng(4).uniform(0.05, 0.95, size=(count, FEATURES)).astype("float32")
    return x, np.argmax(logits(x.astype("float64")), axis=-1)


def gradient(x, y, loss="cross_entropy"):
    """The gradient of the loss of each example with respect to its input, by hand."""
    hidden = np.tanh(x @ HIDDEN[0] + HIDDEN[1])
    z = hidden @ HEAD[0] + HEAD[1]
    true = np.eye(3)[y]
    if loss == "cross_entropy":
        p = np.exp(z - z.max(-1, keepdims=True))
        upstream = p / p.sum(-1, keepdims=True) - true
    else:
        upstream = np.eye(3)[np.argmax(np.where(true > 0, -np.inf, z), axis=-1)] - true
    return (upstream @ HEAD[0].T * (1.0 - hidden**2)) @ HIDDEN[0].T


def project(x_adv, x, norm, epsilon, bounds):
    """The nearest feasible point for each row, from the optimality conditions; `(n, d)`."""
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    low, high = np.broadcast_to(low, x.shape), np.broadcast_to(high, x.shape)
    epsilon = np.broadcast_to(np.asarray(epsilon, "float64"), x.shape)
    if norm == "Linf":
        return np.clip(np.clip(x_adv, x - epsilon, x + epsilon), low, high)
    one = {"L2": _project_l2, "L1": _project_l1}[norm]
    rows = zip(x_adv, x, epsilon[:, 0], low, high, strict=True)
    return np.stack([one(*row) for row in rows])


def _project_l2(p, x, epsilon, low, high):
    """With multiplier `m`, the minimiser of `|z-p|^2 + m |z-x|^2` in the box is a clip."""

    def point(m):
        return np.clip((p + m * x) / (1.0 + m), low, high)

    return _at_radius(point, lambda z: np.linalg.norm(z - x), epsilon)


def _project_l1(p, x, epsilon, low, high):
    """With multiplier `m`, the minimiser of `|z-p|^2 / 2 + m |z-x|_1` is a clipped shrinkage."""

    def point(m):
        delta = p - x
        return np.clip(x + np.sign(delta) * np.maximum(np.abs(delta) - m, 0.0), low, high)

    return _at_radius(point, lambda z: np.abs(z - x).sum(), epsilon)


def _at_radius(point, size, epsilon):
    if size(point(0.0)) <= epsilon:
        return point(0.0)
    upper = 1.0
    while size(point(upper)) > epsilon:
        upper *= 4.0
    return point(optimize.brentq(lambda m: size(point(m)) - epsilon, 0.0, upper, xtol=1e-15))


def project_by_solver(p, x, norm, epsilon, bounds):
    """The nearest feasible point to one `p`, by a general solver: slow, and knows no formula."""
    low, high = (-10.0, 10.0) if bounds is None else bounds
    up = np.broadcast_to(high, x.shape) - x
    down = x - np.broadcast_to(low, x.shape)
    d = len(x)

    def delta(parts):
        return parts[:d] - parts[d:]

    constraints = {
        "L2": lambda parts: epsilon**2 - np.sum(delta(parts) ** 2),
        "L1": lambda parts: epsilon - np.sum(parts),
    }

    def slope(parts):
        half = 2.0 * (x + delta(parts) - p)
        return np.concatenate([half, -half])

    found = optimize.minimize(
        lambda parts: np.sum((x + delta(parts) - p) ** 2),
        np.full(2 * d, 1e-3),
        jac=slope,
        bounds=[(0.0, size) for size in np.concatenate([up, down])],
        constraints={"type": "ineq", "fun": constraints[norm]},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 300},
    )
    return x + delta(found.x)


def step(x_adv, g, norm, size, bounds):
    """`x_adv` moved by `size` along the steepest ascent direction; `(n, d)`."""
    if norm == "Linf":
        return x_adv + size * np.sign(g)
    if norm == "L2":
        return x_adv + size * g / np.linalg.norm(g, axis=-1, keepdims=True)
    return np.stack([_fill(*row, size, bounds) for row in zip(x_adv, g, strict=True)])


def _fill(x_adv, g, size, bounds):
    """Coordinates in the order of their gradients; one that its bound stops is pushed past it."""
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    moved, left = x_adv.copy(), size
    for index in np.argsort(-np.abs(g)):
        room = high - x_adv[index] if g[index] > 0 else x_adv[index] - low
        stopped = room < left
        moved[index] += np.sign(g[index]) * (size if stopped else left)
        left -= room if stopped else left
    return moved


def attack(x, y, norm, epsilon, bounds, *, step_size, num_steps, decay=None, loss="cross_entropy"):
    """BIM from `x`, or MI-FGSM if there is a `decay`; the last point."""
    x = x.astype("float64")
    x_adv, memory = x, np.zeros_like(x)
    for _ in range(num_steps):
        g = gradient(x_adv, y, loss)
        if decay is not None:
            memory = decay * memory + g / np.abs(g).sum(axis=-1, keepdims=True)
            g = memory
        moved = step(x_adv, g, norm, step_size, bounds)
        x_adv = project(moved, x, norm, epsilon, bounds)
    return x_adv
