"""The worst case of a model whose logits are affine in its input: exact, and nothing to search."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust.threat_models import ThreatModel

_NUM_PAIRS = 64
# For features without bounds: several standard deviations of normalised data.
_USUAL_RANGE = (-5.0, 5.0)
_TOLERANCE = {"float32": 1e-4, "float64": 1e-4}
_HALF_TOLERANCE = 0.05


def slopes(classifier, x):
    """Returns the gradient of every logit, `(num_classes, ...)`, the same at every input.

    Called while a tape records, it can be differentiated with respect to the weights.
    """
    point = x[:1]
    num_classes = classifier.logits(point).shape[-1]
    own = ops.eye(num_classes, dtype="float32")

    def diagonal(points):
        return ops.sum(own * classifier.logits(points), axis=-1), ()

    points = ops.repeat(point, num_classes, axis=0)
    return backend.value_and_input_gradient(diagonal, points)[1]


def worst_margins(logits, slopes, x, labels, threat_model):
    """Returns by how much each class can beat the true one at most, `(batch_size, num_classes)`.

    `z_j - z_y + max <w_j - w_y, delta>` over the feasible `delta`, each class `j` with its own
    `delta`; 0 for the true class. The gradient with respect to logits and slopes is that at the
    maximiser, which is the gradient of the maximum (envelope theorem).

    Args:
        logits: `(batch_size, num_classes)` at `x`.
        slopes: `(num_classes, ...)`.
        x: `(batch_size, ...)`.
        labels: int32 `(batch_size,)`.
        threat_model: a `ThreatModel`.
    """
    own_slope = ops.take(slopes, labels, axis=0)
    own_logit = _pick(logits, labels)
    columns = [
        logits[:, j] - own_logit + _gain(slopes[j] - own_slope, x, threat_model)
        for j in range(logits.shape[-1])
    ]
    return ops.stack(columns, axis=-1)


def worst_logits(logits, slopes, x, labels, threat_model):
    """Returns `worst_margins` above the lowest logit that the true class can be brought to."""
    own_slope = ops.take(slopes, labels, axis=0)
    lowest = _pick(logits, labels) - _gain(-own_slope, x, threat_model)
    margins = worst_margins(logits, slopes, x, labels, threat_model)
    return ops.expand_dims(lowest, -1) + margins


def check_affine(model, shape, threat_model, weights=(), x=None):
    """Raises `ValueError` for a model whose logits are not affine in the input, as far as seen.

    Told from 64 pairs of points in the bounds of the threat model, corners among them: the middle
    of a pair must have the mean of their logits, in training mode too.

    Args:
        model: a `keras.Model`, or a callable that returns logits.
        shape: tuple, of one example.
        weights: pairs of a variable of the model and the value that it is to have.
        threat_model: a `ThreatModel`.
        x: array of examples, which widen the range without bounds; or `None`.
    """
    if type(threat_model).bind is not ThreatModel.bind:
        raise ValueError(
            "The exact worst case is known for threat models of the one input, such as Linf, L2 "
            f"and L1. Received: {threat_model!r}"
        )
    first, second = _pairs(shape, threat_model.bounds or _range_of(x, threat_model))
    classifier = models.Classifier(model)
    middle = ops.convert_to_tensor(0.5 * (np.asarray(first) + np.asarray(second)))
    with keras.StatelessScope(list(weights)):
        ends = [np.asarray(classifier.logits(point), "float64") for point in (first, second)]
        tested = classifier.logits(middle), classifier.to_logits(classifier(middle, training=True))
    mean = 0.5 * (ends[0] + ends[1])
    gap = max(np.abs(np.asarray(z) - mean).max() for z in tested)
    tolerance = _TOLERANCE.get(getattr(model, "compute_dtype", "float32"), _HALF_TOLERANCE)
    size = max(np.abs(z).max() for z in ends)
    if not gap <= tolerance * size:
        raise ValueError(
            "The exact worst case is known for models whose logits are affine in the input, in "
            "training as in inference: Dense without activation, Flatten, Rescaling, "
            "Normalization, but no Dropout and no BatchNormalization. Train another model with "
            'the objective "adversarial", and judge it with `evaluate`. Received: logits of up to '
            f"{size:.3g} that leave the affine function by up to {gap:.3g}"
        )


def _range_of(x, threat_model):
    """Returns the range in which the model must be affine, for a threat model without bounds."""
    low, high = _USUAL_RANGE
    if x is None:
        return low, high
    reach = 2.0 * float(np.max(np.abs(x))) + float(np.max(threat_model.radius))
    return min(low, -reach), max(high, reach)


def _pairs(shape, bounds):
    """Random corners of the box, from all low to all high, and random points inside."""
    rng = np.random.default_rng(0)
    low, high = bounds
    share = rng.uniform(size=(_NUM_PAIRS, *(1 for _ in shape)))
    corner = rng.uniform(size=(_NUM_PAIRS, *shape)) < share
    inside = rng.uniform(size=(_NUM_PAIRS, *shape))
    points = (low + (high - low) * part for part in (corner, inside))
    return tuple(ops.convert_to_tensor(point.astype("float32")) for point in points)


def _pick(logits, labels):
    return ops.sum(logits * ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=-1)


def _gain(direction, x, threat_model):
    """`max <direction, delta>` per example, with the gradient at its maximiser."""
    x = ops.stop_gradient(x)
    best = threat_model.linear_maximization_oracle(ops.stop_gradient(direction), x)
    products = direction * ops.stop_gradient(best - x)
    return ops.sum(products, axis=tuple(range(1, len(x.shape))))
