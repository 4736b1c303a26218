"""The loss of the worst margins in a box, which the objectives with interval bounds share."""

from keras import ops

from keras_robust import losses
from keras_robust import models
from keras_robust.certification.interval import ball_box
from keras_robust.certification.interval import box_margins
from keras_robust.objectives.objective import at
from keras_robust.threat_models import Linf

# `tau` of the penalty: the ratios that are too small.
_TOLERANCE = 0.5
_SMALLEST = 1e-12


def check_intervals(objective, model, threat_model, margins=box_margins):
    """Raises `ValueError` for a threat model or a model without interval bounds.

    Args:
        objective: the `Objective`, which the message names.
        model: the compiled `keras.Model`.
        threat_model: a `ThreatModel`.
        margins: the function of `interval_losses`.
    """
    if type(threat_model) is not Linf:
        raise ValueError(
            "Interval bounds need Linf: use threat_model=kr.Linf(epsilon). "
            f"Received: {threat_model!r}"
        )
    shapes = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or ()]
    if len(shapes) != 1 or None in shapes[0]:
        raise ValueError(
            f"{type(objective).__name__} must know the shape of the one input of the model: make a "
            "Sequential or functional model that starts with keras.Input(shape), without None. "
            f"Received: a {type(model).__name__} with inputs of shape {shapes or 'unknown'}"
        )
    # A trial run raises the error for a layer without a rule before the training starts.
    x, label = ops.zeros((1, *shapes[0]), "float32"), ops.zeros((1,), dtype="int32")
    margins(model, ball_box(x, 0.0, None), label)


def interval_losses(clean, box, regularization, margins=box_margins):
    """Returns the compiled loss of the worst margins in a box, and the weighted penalty.

    Args:
        clean: `training.ForwardPass`, whose labels and sample weights are those of the box.
        box: `IntervalBounds` of the inputs.
        regularization: float or schedule, the weight of `width_and_balance_penalty`.
        margins: function `(model, box, labels, relu_boxes)` that returns upper bounds of
            `z_j - z_y`, and adds the box in front of every ReLU to the list `relu_boxes`.
    """
    labels = losses.to_indices(models.single(clean.y), clean.logits.shape[-1])
    relu_boxes = []
    worst = margins(clean.classifier.model, box, labels, relu_boxes)
    loss = clean.loss_of(clean.classifier.to_outputs(worst, clean.outputs))
    if regularization == 0.0 or not relu_boxes:
        return loss, 0.0
    penalty = width_and_balance_penalty(box, relu_boxes)
    return loss, at(regularization, clean) * clean.penalty(penalty)


def width_and_balance_penalty(box, relu_boxes):
    """Returns the penalty of Shi et al. (2021) on wide boxes and on one-sided ReLUs, a scalar.

    With `tau = 0.5`, the sum over the `m` ReLUs of

        relu(tau - E[width of the input box] / E[width in front of the ReLU]) / (tau m)
        relu(tau - min(a, 1 / a)) / (tau m)
        relu(tau - min(b, 1 / b)) / (tau m)

    where `a` is the sum of the centers of active units, whose box is above 0, divided by minus that
    of inactive units, whose box is below 0; `b` is the same ratio of the squared distances of the
    centers from their mean. A ratio without active or inactive units is left out.

    Args:
        box: `IntervalBounds` of the inputs.
        relu_boxes: list of `IntervalBounds`, those in front of each ReLU.
    """
    width = ops.mean(box.radius)
    total = 0.0
    for inner in relu_boxes:
        total += _too_small(width / ops.maximum(ops.mean(inner.radius), _SMALLEST))
        centre = inner.centre
        active, inactive = (ops.cast(side, centre.dtype) for side in _sides(inner))
        for size in (ops.abs(centre), ops.square(centre - ops.mean(centre))):
            above, below = ops.sum(active * size), ops.sum(inactive * size)
            larger, smaller = ops.maximum(above, below), ops.minimum(above, below)
            penalty = _too_small(smaller / ops.maximum(larger, _SMALLEST))
            total += ops.where(smaller > 0.0, penalty, 0.0)
    return total / (_TOLERANCE * len(relu_boxes))


def _too_small(ratio):
    return ops.relu(_TOLERANCE - ratio)


def _sides(box):
    """Returns which units are active, and which are inactive, in all of a box."""
    return box.lower > 0.0, box.upper < 0.0
