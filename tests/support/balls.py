"""Points in and out of balls and boxes, flattened for references in float64."""

import numpy as np

SHAPE = (2, 1, 3)


# Radii that bind for some of the points below and not for others.
EPSILON = {"L1": 1.5, "L2": 0.7, "Linf": 0.25}


BOUNDS = {
    "box": (0.0, 1.0),
    "channels": (np.array([0.0, -1.0, 0.2]), np.array([1.0, 0.5, 0.9])),
    "none": None,
}


def points(bounds, count=8, spread=0.6):
    """Float32 `x` inside the bounds and `x_adv` in and out of ball and box."""
    rng = np.random.default_rng(11)
    low, high = (np.array(0.0), np.array(1.0)) if bounds is None else map(np.asarray, bounds)
    x = low + (high - low) * rng.beta(0.5, 0.5, size=(count, *SHAPE))
    scale = spread * np.linspace(0.05, 2.0, count).reshape(-1, 1, 1, 1)
    x, x_adv = x.astype("float32"), (x + scale * rng.normal(size=x.shape)).astype("float32")
    return (x if bounds is None else np.clip(x, low, high).astype("float32")), x_adv


def rows(x):
    return np.asarray(x, "float64").reshape(len(x), -1)


def row_bounds(bounds):
    """The bounds for flattened examples: the channels are the last axis."""
    if bounds is None:
        return None
    return tuple(np.broadcast_to(bound, SHAPE).reshape(-1) for bound in bounds)


def norm_of(delta, name):
    order = {"L1": 1, "L2": 2, "Linf": np.inf}[name]
    return np.linalg.norm(rows(delta), ord=order, axis=-1)
