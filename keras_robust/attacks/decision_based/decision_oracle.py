"""What attacks share that see nothing of a model but the class it decides for."""

import typing

from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.result import select
from keras_robust.threat_models.threat_model import per_example

_BLEND_STEPS = 10


class DecisionOracle:
    """Tells which points a model gets wrong. Making one asks the model once.

    Args:
        classifier: a `models.Classifier`.
        x: float tensor `(batch_size, ...)`, the clean examples.
        y: labels, or `None` for the classes that the model decides for at `x`.
        bounds: pair `(low, high)`, where the points are clipped.
    """

    def __init__(self, classifier, x, y, bounds):
        self._labels = label_indices(y, classifier.logits(x, y))
        self._classifier, self._y = classifier, y
        self.bounds = tuple(ops.convert_to_tensor(bound, dtype="float32") for bound in bounds)

    def clip(self, points):
        """Returns the nearest points inside the box."""
        return ops.clip(points, *self.bounds)

    def wrong(self, points):
        """Returns bool `(batch_size,)` for one point per example."""
        return self._wrong(points, self._labels)

    def any_wrong(self, points, num_samples):
        """Returns bool `(batch_size, num_samples)` for `(batch_size, num_samples, ...)`."""
        flat = ops.reshape(points, (-1, *points.shape[2:]))
        labels = ops.repeat(self._labels, num_samples)
        return ops.reshape(self._wrong(flat, labels), (-1, num_samples))

    def _wrong(self, points, labels):
        logits = self._classifier.logits(points, self._y)
        differs = ops.not_equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels)
        # What the model cannot compute is no mistake.
        return ops.logical_and(differs, ops.all(ops.isfinite(logits), axis=-1))


class Start(typing.NamedTuple):
    """Where a search begins, with one entry per example."""

    x_adv: object
    found: object
    queries: object


def check_supported(attack, threat_model, norms):
    """Says so if the threat model is not one of some classes, or has no box."""
    name = type(attack).__name__
    if not isinstance(threat_model, norms):
        names = " or ".join(norm.__name__ for norm in norms)
        raise ValueError(
            f"{name} measures distances in {names} alone, over one input. "
            f"Received: {threat_model!r}"
        )
    if threat_model.bounds is None:
        raise ValueError(
            f"{name} starts at uniform draws from the box of valid inputs, and so needs bounds, "
            f"such as bounds=(0.0, 1.0). Received: {threat_model!r}"
        )


def numbered(seed, number):
    """Returns a seed for draw number `number`, for one or many streams."""
    return seed + ops.stack([ops.cast(number, "int32"), 0])


def initial_adversarial(decisions, x, seed, num_starts):
    """Looks for a mistake near `x` along the way to a random one.

    Draws up to `num_starts` points, uniform in the box, until one is wrong, and halves the way from
    `x` to it ten times.
    """
    low, high = decisions.bounds

    def draw(number, start):
        share = backend.uniform(ops.shape(x), numbered(seed, number))
        point = low + (high - low) * share
        hits = ops.logical_and(decisions.wrong(point), ops.logical_not(start.found))
        return number + 1, Start(
            x_adv=select(hits, point, start.x_adv),
            found=ops.logical_or(start.found, hits),
            queries=start.queries + ops.cast(ops.logical_not(start.found), "int32"),
        )

    never = ops.zeros(ops.shape(x)[:1], dtype="bool")
    _, start = backend.while_loop(
        lambda number, start: ops.logical_and(
            number < num_starts, ops.logical_not(ops.all(start.found))
        ),
        draw,
        (ops.convert_to_tensor(0, "int32"), Start(x, never, ops.cast(never, "int32"))),
    )
    x_adv = bisect(decisions, lambda share: interpolate(x, start.x_adv, share), x, _BLEND_STEPS)
    queries = start.queries + _BLEND_STEPS * ops.cast(start.found, "int32")
    return Start(x_adv, start.found, queries)


def interpolate(x, point, share):
    """Returns the point at `share` of the way from `x` to `point`."""
    return x + per_example(share, x) * (point - x)


def bisect(decisions, path, x, num_steps):
    """Returns a wrong point near the first one on a path that ends at a wrong one.

    Args:
        decisions: `DecisionOracle`.
        path: function from shares, `(batch_size,)`, 0 to 1, to points; wrong at 1.
        x: float tensor `(batch_size, ...)`, for its shape.
        num_steps: int, halvings, and queries.
    """

    def halve(_, state):
        low, high = state
        middle = 0.5 * (low + high)
        wrong = decisions.wrong(decisions.clip(path(middle)))
        return ops.where(wrong, low, middle), ops.where(wrong, middle, high)

    low = ops.zeros(ops.shape(x)[:1], "float32")
    _, high = backend.fori_loop(0, num_steps, halve, (low, low + 1.0))
    return decisions.clip(path(high))
