"""The shared parts of decision-based attacks, which see only the predicted class."""

import typing

from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.result import select
from keras_robust.threat_models.threat_model import per_example

_BISECTIONS = 10


class DecisionOracle:
    """Reports which points a model misclassifies. Constructing it costs one forward pass.

    Args:
        classifier: a `models.Classifier`.
        x: float tensor `(batch_size, ...)`, the clean examples.
        y: labels, or `None` for the classes that the model predicts at `x`.
        bounds: pair `(low, high)`, to which points are clipped.
    """

    def __init__(self, classifier, x, y, bounds):
        self._labels = label_indices(y, classifier.logits(x, y))
        self._classifier, self._y = classifier, y
        self.bounds = tuple(ops.convert_to_tensor(bound, dtype="float32") for bound in bounds)

    def clip(self, points):
        """Returns the nearest points inside the box."""
        return ops.clip(points, *self.bounds)

    def wrong(self, points):
        """Returns whether each point is misclassified, bool `(batch_size,)`."""
        return self._wrong(points, self._labels)

    def any_wrong(self, points, num_samples):
        """Returns bool `(batch_size, num_samples)` for points `(batch_size, num_samples, ...)`."""
        flat = ops.reshape(points, (-1, *points.shape[2:]))
        labels = ops.repeat(self._labels, num_samples)
        return ops.reshape(self._wrong(flat, labels), (-1, num_samples))

    def _wrong(self, points, labels):
        logits = self._classifier.logits(points, self._y)
        differs = ops.not_equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels)
        # Non-finite logits never count as a mistake.
        return ops.logical_and(differs, ops.all(ops.isfinite(logits), axis=-1))


class Start(typing.NamedTuple):
    """The start of a search, with one entry per example."""

    x_adv: object
    found: object
    queries: object


def check_supported(attack, threat_model, norms):
    """Raises ValueError unless the threat model is an instance of `norms` and has a box."""
    name = type(attack).__name__
    if not isinstance(threat_model, norms):
        names = " or ".join(norm.__name__ for norm in norms)
        raise ValueError(
            f"{name} supports only {names}, over one input. Received: {threat_model!r}"
        )
    if threat_model.bounds is None:
        raise ValueError(
            f"{name} starts at uniform draws from the box of valid inputs, and so needs bounds, "
            f"such as bounds=(0.0, 1.0). Received: {threat_model!r}"
        )


def numbered(seed, number):
    """Returns the seed of draw `number`, for one stream or one stream per example."""
    return seed + ops.stack([ops.cast(number, "int32"), 0])


def initial_adversarial(decisions, x, seed, num_starts):
    """Returns a `Start`: a mistake on the line from `x` to a random mistake.

    Up to `num_starts` points are drawn uniformly from the box until one is misclassified. Ten
    bisection steps then move it towards `x`.
    """
    low, high = decisions.bounds

    def draw(number, start):
        share = backend.uniform(ops.shape(x), numbered(seed, number))
        point = low + (high - low) * share
        hits = ops.logical_and(decisions.wrong(point), ops.logical_not(start.found))
        return number + 1, Start(
            x_adv=select(hits, point, start.x_adv),
            found=ops.logical_or(start.found, hits),
            # Examples that have a start make no further draws.
            queries=start.queries + ops.cast(ops.logical_not(start.found), "int32"),
        )

    all_false = ops.zeros(ops.shape(x)[:1], dtype="bool")
    _, start = backend.while_loop(
        lambda number, start: ops.logical_and(
            number < num_starts, ops.logical_not(ops.all(start.found))
        ),
        draw,
        (ops.convert_to_tensor(0, "int32"), Start(x, all_false, ops.cast(all_false, "int32"))),
    )
    x_adv = bisect(decisions, lambda share: interpolate(x, start.x_adv, share), x, _BISECTIONS)
    queries = start.queries + _BISECTIONS * ops.cast(start.found, "int32")
    return Start(x_adv, start.found, queries)


def interpolate(x, point, share):
    """Returns the point at `share` of the way from `x` to `point`."""
    return x + per_example(share, x) * (point - x)


def bisect(decisions, path, x, num_steps):
    """Returns a misclassified point near the first one on a path that ends misclassified.

    Args:
        decisions: `DecisionOracle`.
        path: function that maps shares from 0 to 1, `(batch_size,)`, to points. The point at 1 is
            misclassified.
        x: float tensor `(batch_size, ...)`, for its shape.
        num_steps: int, the number of bisection steps, each of which costs one query.
    """

    def halve(_, state):
        low, high = state
        middle = 0.5 * (low + high)
        wrong = decisions.wrong(decisions.clip(path(middle)))
        return ops.where(wrong, low, middle), ops.where(wrong, middle, high)

    low = ops.zeros(ops.shape(x)[:1], "float32")
    _, high = backend.fori_loop(0, num_steps, halve, (low, low + 1.0))
    # The upper end of the bracket is always misclassified.
    return decisions.clip(path(high))
