"""The exact worst case of a model whose logits are affine in its input."""

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust.threat_models import ThreatModel

_NUM_PAIRS = 64
# For inputs without bounds: several standard deviations of normalized data.
_USUAL_RANGE = (-5.0, 5.0)
# Shares of the largest difference of two logits, which decides the class, and, for rounding, of the
# largest logit. The points are float32 whatever the dtype of the model.
_TOLERANCES = {"float32": (1e-4, 1e-5), "float64": (1e-4, 1e-5)}
_HALF_TOLERANCES = (0.05, 0.01)  # A layer in bfloat16, with 8 bits, rounds by up to 0.4%.


def slopes(classifier, x):
    """Returns the gradient of every logit, `(num_classes, ...)`, the same at every input.

    Inside a gradient tape, the result can be differentiated with respect to the weights.
    """
    # The gradient of an affine function is the same everywhere, so one point is enough.
    point = x[:1]
    num_classes = classifier.logits(point).shape[-1]
    # One copy of the point for each logit gives all gradients in one backward pass.
    own = ops.eye(num_classes, dtype="float32")

    def diagonal(points):
        return ops.sum(own * classifier.logits(points), axis=-1), ()

    points = ops.repeat(point, num_classes, axis=0)
    return backend.value_and_input_gradient(diagonal, points)[1]


def worst_margins(logits, slopes, x, labels, threat_model):
    """Returns the largest margin of each class over the true one, `(batch_size, num_classes)`.

    `z_j - z_y + max <w_j - w_y, delta>` over the feasible `delta`, with its own `delta` for each
    class `j`; 0 for the true class. The gradient with respect to logits and slopes is taken at the
    maximizer, where it is the gradient of the maximum (envelope theorem).

    Args:
        logits: `(batch_size, num_classes)`, the logits at `x`.
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
    """Returns `worst_margins` plus the lowest feasible logit of the true class."""
    own_slope = ops.take(slopes, labels, axis=0)
    lowest = _pick(logits, labels) - _gain(-own_slope, x, threat_model)
    margins = worst_margins(logits, slopes, x, labels, threat_model)
    return ops.expand_dims(lowest, -1) + margins


def check_affine(model, shape, threat_model, weights=(), x=None):
    """Raises `ValueError` for a model whose logits are not affine in the input at random points.

    The points are 64 pairs in the bounds of the threat model, among them corners. At the midpoint
    of a pair the logits must be the mean of the logits at its two ends, also in training mode.

    Args:
        model: a `keras.Model`, or a callable that returns logits.
        shape: tuple, the shape of one example.
        weights: pairs of a variable of the model and the value to use for it.
        threat_model: a `ThreatModel`.
        x: array of examples, which widen the range if there are no bounds; or `None`.
    """
    if type(threat_model).bind is not ThreatModel.bind:
        raise ValueError(
            "The exact worst case is known for threat models of a single input, such as Linf, L2 "
            f"and L1. Received: {threat_model!r}"
        )
    first, second = _pairs(shape, threat_model.bounds or _range_of(x, threat_model))
    classifier = models.Classifier(model)
    middle = ops.convert_to_tensor(0.5 * (np.asarray(first) + np.asarray(second)))
    # The scope replaces values without an assignment, so that a check does not change the model.
    with keras.StatelessScope(list(weights)):
        ends = [np.asarray(classifier.logits(point), "float64") for point in (first, second)]
        # Dropout and BatchNormalization differ from an affine function only in training.
        tested = classifier.logits(middle), classifier.to_logits(classifier(middle, training=True))
    mean = 0.5 * (ends[0] + ends[1])
    gap = max(np.abs(np.asarray(z) - mean).max() for z in tested)
    size = max(np.abs(z).max() for z in ends)
    spread = max(np.ptp(z, axis=-1).max() for z in ends)
    dtype = getattr(model, "compute_dtype", "float32")
    of_spread, of_size = _TOLERANCES.get(dtype, _HALF_TOLERANCES)
    # Written as `not <=` so that NaN fails.
    if not gap <= of_spread * spread + of_size * size:
        raise ValueError(
            "The exact worst case is known for models whose logits are affine in the input, in "
            "training and in inference: Dense without activation, Flatten, Rescaling, "
            "Normalization, but no Dropout and no BatchNormalization. Train another model with "
            'the objective "adversarial", and use `evaluate`. Received: logits of up to '
            f"{size:.3g} that differ from an affine function by up to {gap:.3g}"
        )


def _range_of(x, threat_model):
    """Returns the range in which the model must be affine, for a threat model without bounds."""
    low, high = _USUAL_RANGE
    if x is None:
        return low, high
    # An attack can move an example by the radius, so the model must be affine there as well.
    reach = 2.0 * float(np.max(np.abs(x))) + float(np.max(threat_model.radius))
    return min(low, -reach), max(high, reach)


def _pairs(shape, bounds):
    """Returns random corners of the box, with varying shares of high ends, and inner points."""
    # A fixed seed, so that the same model always passes or always fails.
    rng = np.random.default_rng(0)
    low, high = bounds
    # With one share of high ends, all corners of a large image would have nearly the same mean.
    share = rng.uniform(size=(_NUM_PAIRS, *(1 for _ in shape)))
    corner = rng.uniform(size=(_NUM_PAIRS, *shape)) < share
    inside = rng.uniform(size=(_NUM_PAIRS, *shape))
    points = (low + (high - low) * part for part in (corner, inside))
    return tuple(ops.convert_to_tensor(point.astype("float32")) for point in points)


def _pick(logits, labels):
    return ops.sum(logits * ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=-1)


def _gain(direction, x, threat_model):
    """Returns `max <direction, delta>` per example, with the gradient at its maximizer."""
    # By the envelope theorem the maximizer is a constant in the gradient of a maximum.
    x = ops.stop_gradient(x)
    best = threat_model.linear_maximization_oracle(ops.stop_gradient(direction), x)
    products = direction * ops.stop_gradient(best - x)
    return ops.sum(products, axis=tuple(range(1, len(x.shape))))
