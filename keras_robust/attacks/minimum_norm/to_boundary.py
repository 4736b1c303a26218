"""Moves a mistake back to the decision boundary, by bisection."""

from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.result import select
from keras_robust.threat_models.threat_model import per_example

_HALVINGS = 12
# The search for a mistake that is safe from rounding may go this far beyond the point found.
_LONGEST = 1.0 + 1.0 / 128.0
# The rounding error of a logit in float32, as a share of the largest logit.
_ROUNDING = 1e-5
QUERIES = _HALVINGS + 1


def to_boundary(problem, point, *, targeted=False, confidence=0.0):
    """Returns mistakes moved towards `x`, to the boundary or slightly beyond.

    The candidates are the projections of `point` onto smaller balls around `x`. The result is the
    nearest candidate that 12 bisection steps find among those whose class leads by `confidence` and
    by a margin for rounding, 1e-5 of the largest logit. Thus a mistake in float32 is also one in
    float64. If no nearer point has such a lead, the search extends up to 1/128 beyond `point`. If
    that fails too, the result is `point`.

    Cost: 13 forward passes.

    Args:
        problem: a `SearchProblem`, whose radius is ignored. Its `y` are the labels, the target
            labels if `targeted` is `True`, or `None` for the predictions.
        point: float tensor like `x`, the mistakes. Where it equals `x`, the result is `x`.
        targeted: `False`, `True` or `"least_likely"`, for which any wrong class is a mistake.
        confidence: float >= 0, in units of the logits; or `None` for attacks that see decisions
            only: the class alone counts, without a margin for rounding.
    """
    classifier, x, y = problem.classifier, problem.x, problem.y
    threat_model = problem.threat_model
    clean = ops.stop_gradient(classifier.logits(x, y))
    labels = label_indices(y, clean)
    distance = threat_model.distance(point, x)

    def is_safe(candidate):
        logits = classifier.logits(candidate, y)
        lead = losses.margin(labels, logits)
        lead = -lead if targeted is True else lead
        if confidence is None:
            return ops.isfinite(_largest(logits)) & (lead > 0.0)
        size = ops.maximum(_largest(logits), _largest(clean))
        least = confidence + _ROUNDING * size
        return ops.isfinite(size) & (lead > 0.0) & (lead >= least)

    def at(share):
        longer = threat_model.clip(x + per_example(share, x) * (point - x))
        start = select(share > 1.0, longer, point)
        return ops.stop_gradient(threat_model.with_radii(share * distance, x).project(start, x))

    def halve(_, state):
        low, high, best = state
        share = 0.5 * (low + high)
        candidate = at(share)
        safe = is_safe(candidate)
        best = select(safe, candidate, best)
        return ops.where(safe, low, share), ops.where(safe, share, high), best

    low = ops.zeros_like(distance)
    return backend.fori_loop(0, _HALVINGS, halve, (low, low + _LONGEST, point))[2]


def _largest(logits):
    return ops.max(ops.abs(logits), axis=-1)
