"""The rest of the way from a mistake to the boundary of its class, by bisection."""

from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.result import select
from keras_robust.threat_models.threat_model import per_example

_HALVINGS = 12
# How far beyond a mistake one may be looked for that is safe from rounding.
_LONGEST = 1.0 + 1.0 / 128.0
# What float32 may get wrong in a logit, as a share of the largest.
_ROUNDING = 1e-5
QUERIES = _HALVINGS + 1


def to_boundary(classifier, x, y, point, threat_model, *, targeted=False, confidence=0.0):
    """Returns mistakes moved towards `x`, up to the boundary, or a little beyond.

    On the way lie the projections of `point` onto the smaller balls around `x`. The nearest that
    12 halvings find is taken, among those whose class leads by `confidence` and by what rounding
    may hide, 1e-5 of the largest logit: a mistake in float32 is then one in float64. Where a lead
    as large is only met farther out, it is looked for up to 1/128 beyond `point`; where there is
    none, `point` stays.

    Cost: 13 forward passes.

    Args:
        classifier: a `models.Classifier`.
        x: float tensor `(batch_size, ...)`, the clean examples.
        y: labels, target labels if `targeted` is `True`, or `None` for the predictions.
        point: float tensor like `x`, the mistakes; `x` itself stays.
        threat_model: a `ThreatModel`, whose radius plays no role.
        targeted: `False`, `True` or `"least_likely"`, which any wrong class satisfies.
        confidence: float >= 0, in units of the logits.
    """
    clean = ops.stop_gradient(classifier.logits(x, y))
    labels = label_indices(y, clean)
    distance = threat_model.distance(point, x)

    def is_safe(candidate):
        logits = classifier.logits(candidate, y)
        lead = losses.margin(labels, logits)
        lead = -lead if targeted is True else lead
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
