"""The loss that an attack maximizes, its success criterion, and checks of arguments."""

import math
import numbers

from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import models

LOSSES = (None, "compiled", *losses.FUNCTIONS)

# Scales the loss so that small gradients of a float16 model do not underflow. Every step normalizes
# the gradient, so the factor has no other effect.
_FLOAT16_SCALE = 256.0
_LARGE = 3e38


def make_attack_loss(problem, loss, targeted):
    """Returns a function `x_adv -> (values, success)` that a search maximizes.

    Args:
        problem: a `SearchProblem`, of which `classifier`, `x` and `y` are used. Its `y` are the
            labels, or target labels if `targeted` is `True`. With `None` the classes that the model
            predicts at `x` are used, so that the perturbation does not leak the true label.
        loss: `None`, `"compiled"`, a name in `losses.FUNCTIONS`, or a function
            `(y, logits) -> (batch_size,)`.
        targeted: `False`, `True` or `"least_likely"`.

    Returns:
        A function. `values` and `success` have shape `(batch_size,)`. Success means a wrong class,
        or the target class if `targeted` is `True`. For a shared perturbation the shape is `(1,)`,
        with the mean of the values, and success on all examples.
    """
    score = _attack_loss(problem, loss, targeted)
    return _pooled(score) if problem.is_shared else score


def _pooled(score):
    """Returns the mean of the values, and whether all examples succeed."""

    def pooled(x_adv):
        values, success = score(x_adv)
        return ops.mean(values, keepdims=True), ops.all(success, keepdims=True)

    return pooled


def _attack_loss(problem, loss, targeted):
    """Returns the function of `make_attack_loss` with one entry per example."""
    classifier, y = problem.classifier, problem.y
    outputs = classifier(problem.x)
    loss = _resolve_loss(classifier, outputs, y, loss)
    if loss == "compiled":
        return _compiled_attack_loss(classifier, y, targeted)
    if targeted is True and y is None:
        raise ValueError("A targeted attack needs target labels. Received: targeted=True, y=None")
    clean = ops.stop_gradient(classifier.to_logits(outputs, y))
    labels = ops.argmax(clean, axis=-1) if y is None else models.single(y)
    references, sign = _references(clean, labels, loss, targeted)
    function = loss if callable(loss) else losses.FUNCTIONS[loss or "cross_entropy"]
    indices = losses.to_indices(labels, clean.shape[-1])
    scale = sign * _loss_scale(classifier)

    def score(x_adv):
        logits = classifier.logits(x_adv, y)
        hit = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), indices)
        success = hit if targeted is True else ops.logical_not(hit)
        values = scale * function(references, logits)
        # Non-finite logits never count as success, and rank below every finite loss.
        finite = ops.logical_and(ops.isfinite(values), ops.all(ops.isfinite(logits), axis=-1))
        return ops.where(finite, values, -_LARGE), ops.logical_and(success, finite)

    return score


def _resolve_loss(classifier, outputs, y, loss):
    """Returns `loss`, or for `None` the loss that suits the compiled model."""
    if loss is not None or y is None or not classifier.loss_name:
        return loss
    return "cross_entropy" if classifier.is_classification(outputs, y) else "compiled"


def _references(clean, labels, loss, targeted):
    """Returns what the loss compares the logits with, and the sign that makes it a maximization."""
    if loss == "kl":
        return clean, 1.0
    if targeted == "least_likely":
        return ops.argmin(clean, axis=-1), -1.0
    return labels, -1.0 if targeted else 1.0


def _loss_scale(classifier):
    return _FLOAT16_SCALE if classifier.computes_in_float16 else 1.0


def _compiled_attack_loss(classifier, y, targeted):
    if targeted or y is None or not classifier.loss_name:
        raise ValueError(
            'The loss "compiled" is the loss that the model was compiled with: it needs a '
            "compiled model and labels, and has no targets. Received: "
            f"loss={classifier.loss_name or None!r}, y={y!r}, targeted={targeted!r}"
        )
    scale = _loss_scale(classifier)

    def score(x_adv):
        values = scale * classifier.compiled_loss(x_adv, y)
        values = ops.where(ops.isfinite(values), values, -_LARGE)
        # A compiled loss does not define which outputs are a mistake.
        return values, ops.zeros(ops.shape(values), dtype="bool")

    return score


def zero_gradient(gradient):
    """Returns, per example, whether every entry of the input gradient is zero."""
    flat = ops.reshape(gradient, (ops.shape(gradient)[0], -1))
    return ops.logical_not(ops.any(ops.not_equal(flat, 0.0), axis=-1))


def label_indices(y, logits):
    """Returns labels, or the predictions if `y` is `None`, as int32 indices `(batch_size,)`."""
    labels = ops.argmax(logits, axis=-1) if y is None else models.single(y)
    return losses.to_indices(labels, logits.shape[-1])


def averaged_gradient(score, x_adv, eot_samples):
    """Returns `(loss, success), gradient`, averaged over `eot_samples` passes of a random model.

    The success is that of the last pass. Non-finite entries of the gradient are set to 0.
    """
    (loss, success), gradient = backend.value_and_input_gradient(score, x_adv)
    for _ in range(eot_samples - 1):
        (more, success), another = backend.value_and_input_gradient(score, x_adv)
        loss, gradient = loss + more, gradient + another
    # A NaN would spread to every later point. As a zero it counts as a zero gradient.
    gradient = ops.where(ops.isfinite(gradient), gradient, 0.0)
    return (loss / eot_samples, success), gradient / eot_samples


def check_counts(**arguments):
    """Raises ValueError unless every argument is an int >= 1."""
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"Argument `{name}` must be an int >= 1. Received: {value!r}")


def check_seed(seed):
    """Raises ValueError unless `seed` is an int that fits into 32 bits."""
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_integer or not -(2**31) <= seed < 2**31:
        raise ValueError(
            f"Argument `seed` must be an int from -2**31 to 2**31 - 1. Received: seed={seed!r}"
        )


def check_numbers(or_zero=False, **arguments):
    """Raises ValueError unless every argument is a finite number > 0, or >= 0 with `or_zero`."""
    for name, value in arguments.items():
        is_number = isinstance(value, numbers.Real) and math.isfinite(value)
        if not is_number or value < 0.0 or (value == 0.0 and not or_zero):
            sign = ">=" if or_zero else ">"
            raise ValueError(f"Argument `{name}` must be a number {sign} 0. Received: {value!r}")


def check_shares(**arguments):
    """Raises ValueError unless every argument is a number between 0 and 1."""
    for name, value in arguments.items():
        if not isinstance(value, numbers.Real) or not 0.0 < value < 1.0:
            raise ValueError(
                f"Argument `{name}` must be a number > 0 and < 1.0. Received: {value!r}"
            )


def check_choice(name, value, choices):
    """Raises ValueError unless `value` is one of `choices`; `True` does not match `1` here."""
    if not any(value is choice or (value == choice and type(value) is str) for choice in choices):
        raise ValueError(f"Argument `{name}` must be one of {choices}. Received: {value!r}")
