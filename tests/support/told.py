"""A model whose mistakes one can see, and attacks that find what they are told to find."""

import keras
import numpy as np
from keras import ops

import keras_robust as kr

BALL = kr.Linf(0.3)

# The model is right where the first coordinate is above 0.5; the last example is a mistake.
X = np.array([[0.9, 0.2], [0.7, 0.4], [0.75, 0.5], [0.1, 0.5], [0.6, 0.0]], "float32")
Y = np.array([1, 1, 1, 0, 0])
FALLS = np.array([-1.0, -1.0, -1.0, 1.0, 0.0])


def model(x):
    """Logits of which the second is larger where the first coordinate is above 0.5."""
    return ops.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=-1)


def _moved(moves, clean, x):
    """Returns `x` with the first coordinate moved as told for the example that it is."""
    gaps = ops.sum(ops.abs(ops.expand_dims(x, 1) - clean[None]), axis=-1)
    row = ops.argmin(gaps, axis=-1)
    first = np.eye(clean.shape[-1], dtype="float32")[:1]
    # NaN in other coordinates would not come from a move of the first.
    moved = x + ops.take(moves, row)[:, None]
    return ops.where(ops.convert_to_tensor(first) > 0, moved, x), row


class Fixed(kr.attacks.Attack):
    """Moves the first coordinate as it was told, and claims what it was told to claim.

    Args:
        moves: one number for each row of `x`.
        name: str, its only setting.
        claim: bool, the success that it reports.
        blind: bools, for each row of `x` whether its gradients were zero.
        x: array `(n, features)`, the clean examples, told apart by their values.
        queries: ints, one for each row of `x`.
        uses_gradients: bool.
    """

    def __init__(
        self,
        moves,
        name="Fixed",
        claim=True,
        has_zero_gradient=None,
        x=X,
        queries=None,
        uses_gradients=True,
    ):
        self.moves, self.x = np.asarray(moves, "float32"), x
        self.name, self.claim = name, claim
        self.has_zero_gradient = (
            np.zeros(len(x), "bool") if has_zero_gradient is None else np.asarray(has_zero_gradient)
        )
        self.queries = np.ones(len(x), "int32") if queries is None else np.asarray(queries, "int32")
        self.uses_gradients = uses_gradients

    def get_config(self):
        return {"name": self.name}

    def search(self, problem):
        x_adv, row = _moved(self.moves, self.x, problem.x)
        shape = ops.shape(problem.x)[:1]
        claim = ops.full(shape, self.claim, dtype="bool")
        has_zero_gradient, queries = (
            ops.take(self.has_zero_gradient, row),
            ops.take(self.queries, row),
        )
        return kr.attacks.AttackResult(x_adv, ops.zeros(shape), claim, has_zero_gradient, queries)


class FixedNearest(kr.attacks.MinimumNormAttack):
    """Says that the nearest mistakes are where it was told; nowhere for a move of 0."""

    def __init__(self, moves, x=X):
        self.moves, self.x = np.asarray(moves, "float32"), x

    def get_config(self):
        return {}

    def nearest(self, problem):
        x_adv, row = _moved(self.moves, self.x, problem.x)
        shape = ops.shape(problem.x)[:1]
        never, queries = ops.zeros(shape, dtype="bool"), ops.ones(shape, dtype="int32")
        found = ops.take(self.moves, row) != 0.0
        return kr.attacks.AttackResult(x_adv, ops.zeros(shape), found, never, queries)


def random_model(x):
    """Logits with noise of their own in every pass."""
    return 10.0 * model(x) + 5.0 * keras.random.normal(ops.shape(model(x)), seed=_SEEDS)


def reversed_model(x):
    """The model with its gradient turned around, by which gradient attacks go astray."""
    return model(2.0 * ops.stop_gradient(x) - x)


_SEEDS = keras.random.SeedGenerator(3)
