"""What an attack maximises, and when it has won."""

import math
import numbers

from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import models

LOSSES = (None, "compiled", *losses.FUNCTIONS)

# Keeps small gradients of a float16 model out of the underflow; every step normalises it away.
_FLOAT16_SCALE = 256.0
_LARGE = 3e38


def make_attack_loss(classifier, x, y, loss, targeted):
    """Returns a function `x_adv -> (values, success)` for the search around `x`.

    Args:
        classifier: a `models.Classifier`.
        x: float tensor `(batch_size, ...)`, the clean examples.
        y: labels, target labels if `targeted` is `True`, or `None` for the classes that the model
            predicts at `x`, which keeps the label out of the perturbation.
        loss: `None`, `"compiled"`, a name in `losses.FUNCTIONS`, or a function
            `(y, logits) -> (batch_size,)`.
        targeted: `False`, `True` or `"least_likely"`.

    Returns:
        A function; `values` and `success` have shape `(batch_size,)`. Success is a wrong class, or
        the target class if `targeted` is `True`.
    """
    outputs = classifier(x)
    if loss is None and y is not None and classifier.loss_name:
        loss = "cross_entropy" if classifier.is_classification(outputs, y) else "compiled"
    if loss == "compiled":
        return _compiled_goal(classifier, y, targeted)
    if targeted is True and y is None:
        raise ValueError("A targeted attack needs target labels. Received: targeted=True, y=None")
    clean = ops.stop_gradient(classifier.to_logits(outputs, y))
    num_classes = clean.shape[-1]
    labels = ops.argmax(clean, axis=-1) if y is None else models.single(y)
    goals, sign = labels, 1.0
    if targeted == "least_likely":
        goals, sign = ops.argmin(clean, axis=-1), -1.0
    elif targeted:
        sign = -1.0
    if loss == "kl":
        goals, sign = clean, 1.0
    function = loss if callable(loss) else losses.FUNCTIONS[loss or "cross_entropy"]
    indices = losses.to_indices(labels, num_classes)
    scale = _FLOAT16_SCALE if classifier.computes_in_float16 else 1.0

    def score(x_adv):
        logits = classifier.logits(x_adv, y)
        hit = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), indices)
        success = hit if targeted is True else ops.logical_not(hit)
        values = sign * scale * function(goals, logits)
        # What the model cannot compute is no success, and worse than anything it can.
        finite = ops.logical_and(ops.isfinite(values), ops.all(ops.isfinite(logits), axis=-1))
        return ops.where(finite, values, -_LARGE), ops.logical_and(success, finite)

    return score


def _compiled_goal(classifier, y, targeted):
    if targeted or y is None or not classifier.loss_name:
        raise ValueError(
            'The loss "compiled" is what the model was compiled with: it needs a compiled model '
            "and labels, and has no targets. "
            f"Received: loss={classifier.loss_name or None!r}, y={y!r}, targeted={targeted!r}"
        )
    scale = _FLOAT16_SCALE if classifier.computes_in_float16 else 1.0

    def score(x_adv):
        values = scale * classifier.compiled_loss(x_adv, y)
        values = ops.where(ops.isfinite(values), values, -_LARGE)
        return values, ops.zeros(ops.shape(values), dtype="bool")

    return score


def zero_gradient(gradient):
    """Returns, per example, whether every entry of the input gradient is zero."""
    flat = ops.reshape(gradient, (ops.shape(gradient)[0], -1))
    return ops.logical_not(ops.any(ops.not_equal(flat, 0.0), axis=-1))


def label_indices(y, logits):
    """Returns labels as int32 class indices `(batch_size,)`; without any, what `logits` predict."""
    labels = ops.argmax(logits, axis=-1) if y is None else models.single(y)
    return losses.to_indices(labels, logits.shape[-1])


def averaged_gradient(score, x_adv, eot_samples):
    """Returns `(loss, success), gradient`, averaged over `eot_samples` passes of a random model.

    The success is that of the last pass. What is not finite in the gradient is 0.
    """
    (loss, success), gradient = backend.value_and_input_gradient(score, x_adv)
    for _ in range(eot_samples - 1):
        (more, success), another = backend.value_and_input_gradient(score, x_adv)
        loss, gradient = loss + more, gradient + another
    # A NaN would spread to every later point; as a zero it counts as a blind gradient.
    gradient = ops.where(ops.isfinite(gradient), gradient, 0.0)
    return (loss / eot_samples, success), gradient / eot_samples


def check_counts(**arguments):
    """Says so if an argument is no int >= 1."""
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"Argument `{name}` must be an int >= 1. Received: {value!r}")


def check_seed(seed):
    """Says so if `seed` is no int that fits into 32 bits."""
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_integer or not -(2**31) <= seed < 2**31:
        raise ValueError(
            f"Argument `seed` must be an int from -2**31 to 2**31 - 1. Received: seed={seed!r}"
        )


def check_numbers(or_zero=False, **arguments):
    """Says so if an argument is no finite number > 0, or, if that is allowed, 0."""
    for name, value in arguments.items():
        is_number = isinstance(value, numbers.Real) and math.isfinite(value)
        if not is_number or value < 0.0 or (value == 0.0 and not or_zero):
            sign = ">=" if or_zero else ">"
            raise ValueError(f"Argument `{name}` must be a number {sign} 0. Received: {value!r}")


def check_choice(name, value, choices):
    """Says so if `value` is none of `choices`; `True` is not `1` here."""
    if not any(value is choice or (value == choice and type(value) is str) for choice in choices):
        raise ValueError(f"Argument `{name}` must be one of {choices}. Received: {value!r}")
