"""A linear two-class model, and what an attacker can reach on it at most, in closed form."""

import keras
import numpy as np
from scipy import optimize

SHAPE = (2, 3, 2)
WEIGHTS = np.random.default_rng(5).normal(size=(12, 2)).astype("float32")
BIAS = np.array([0.1, -0.2], "float32")
EPSILON = {"Linf": 0.15, "L2": 0.6, "L1": 0.9}


def logits(x):
    """The model as a plain callable."""
    return keras.ops.matmul(keras.ops.reshape(x, (-1, 12)), WEIGHTS) + BIAS


def keras_model():
    """The model as a `keras.Sequential`, not compiled."""
    head = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), head])
    head.set_weights([WEIGHTS, BIAS])
    return model


def examples(count=6):
    """Inputs of which some coordinates are near a bound, and the classes that the model gives."""
    x = np.random.default_rng(1).beta(0.5, 0.5, size=(count, *SHAPE)).astype("float32")
    return x, np.argmax(x.reshape(count, 12) @ WEIGHTS + BIAS, axis=-1)


def ascent(y):
    """The gradient of the margin for each label, `(n, 12)`, in float64."""
    weights = WEIGHTS.astype("float64")
    return np.stack([weights[:, 1 - label] - weights[:, label] for label in y])


def margin(x, y):
    """How much the wrong class beats the right one, in float64."""
    x = np.asarray(x, "float64").reshape(len(y), 12)
    bias = BIAS.astype("float64")
    return np.sum(ascent(y) * x, axis=-1) + np.array([bias[1 - label] - bias[label] for label in y])


def best(x, y, norm, epsilon, bounds):
    """The feasible point of the largest margin for each example, in float64."""
    flat = np.asarray(x, "float64").reshape(len(y), 12)
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    solve = {"Linf": _linf, "L2": _l2, "L1": _l1}[norm]
    deltas = [
        solve(w, epsilon, low - one, high - one) for w, one in zip(ascent(y), flat, strict=True)
    ]
    return (flat + np.stack(deltas)).reshape(np.shape(x))


def largest_gain(directions, x, norm, epsilon, low, high):
    """The largest `<direction, delta>` in ball and box for each row, in float64; `(n,)`."""
    solve = {"Linf": _linf, "L2": _l2, "L1": _l1}[norm]
    low, high = np.broadcast_to(low, x.shape), np.broadcast_to(high, x.shape)
    pairs = zip(directions, low - x, high - x, strict=True)
    return np.array([w @ solve(w, epsilon, lowest, highest) for w, lowest, highest in pairs])


def farthest(direction, x, norm, epsilon, low=0.0, high=1.0):
    """The `delta` in ball and box with the largest `<direction, delta>` for one example."""
    solve = {"Linf": _linf, "L2": _l2, "L1": _l1}[norm]
    return solve(direction, epsilon, low - x, high - x)


def distance(x, y, norm, bounds=(0.0, 1.0)):
    """The distance to the hyperplane inside the box for each example, from the best gain."""
    low, high = (-1e3, 1e3) if bounds is None else bounds
    distances = []
    for direction, one, label in zip(ascent(y), x.reshape(len(x), -1), y, strict=True):
        start = margin(one[None], [label])[0]

        def lead(radius, direction=direction, one=one[None], start=start):
            gain = largest_gain(direction[None], one, norm, radius, low, high)
            return start + gain[0]

        distances.append(optimize.brentq(lead, 1e-6, 100.0))
    return np.array(distances)


def fewest_features(x, y):
    """How many features must change inside the box (0, 1) for each example to be a mistake."""
    slopes, flat = ascent(y), x.reshape(len(x), -1)
    gains = np.sort(np.maximum(slopes * (1.0 - flat), -slopes * flat), axis=-1)[:, ::-1]
    enough = np.cumsum(gains, axis=-1) > -margin(x, y)[:, None]
    return 1 + np.argmax(enough, axis=-1)


def _linf(w, epsilon, lowest, highest):
    return np.clip(epsilon * np.sign(w), lowest, highest)


def _l2(w, epsilon, lowest, highest):
    """`clip(c * w)` with the `c` at which the length is epsilon, or the corner of the box."""

    def excess(log_c):
        return np.linalg.norm(np.clip(np.exp(log_c) * w, lowest, highest)) - epsilon

    if excess(40.0) < 0.0:
        return np.clip(np.exp(40.0) * w, lowest, highest)
    return np.clip(np.exp(optimize.brentq(excess, -40.0, 40.0, xtol=1e-14)) * w, lowest, highest)


def _l1(w, epsilon, lowest, highest):
    """A knapsack: fill the coordinates in the order of their weights, each up to its bound."""
    delta, left = np.zeros_like(w), epsilon
    for index in np.argsort(-np.abs(w)):
        room = highest[index] if w[index] > 0 else -lowest[index]
        delta[index] = np.sign(w[index]) * min(room, left)
        left -= abs(delta[index])
    return delta
