"""Checks of the outputs of a model in training: logits, probabilities and metrics."""

import warnings

import keras
from keras import ops

from keras_robust import backend
from keras_robust.backend.requirement import Requirement
from keras_robust.models.compiled_loss import name_of_loss
from keras_robust.models.probabilities import are_probabilities
from keras_robust.models.structures import single

_REGRESSION = ("mean_squared_error", "mean_absolute_error", "mean_squared_logarithmic_error")
_REGRESSION += ("huber", "log_cosh", "cosine_similarity")


def check_outputs(problem, outputs):
    """Returns a list of `Requirement`: loss and outputs agree on logits or on probabilities.

    Args:
        problem: the result of `Classifier.logits_mismatch`.
        outputs: the outputs of the model.
    """
    if problem is None:
        return []
    outputs = single(outputs)
    values = ops.min(outputs), ops.max(outputs)
    return [Requirement(ops.logical_not(problem[0]), problem[1], values)]


def check_each_output(model, outputs, y):
    """Returns a list of `Requirement` for several outputs, and for sequences of labels.

    Only outputs with a cross-entropy of Keras are checked: they must be probabilities if the loss
    expects probabilities, and their labels must be classes.
    """
    if isinstance(outputs, dict):
        names = sorted(outputs)
    else:
        names = getattr(model, "output_names", None) or range(len(keras.tree.flatten(outputs)))
    owner = "the output {!r}" if keras.tree.is_nested(outputs) else "the model"
    outputs, targets, given = (_by_name(part, names) for part in (outputs, y, model.loss))
    checks = []
    for name, output in outputs.items():
        loss, where = _cross_entropy(given.get(name)), owner.format(name)
        if loss is None or not hasattr(output, "shape"):
            continue
        checks.extend(_check_probabilities(loss, output, where))
        if name_of_loss(loss).startswith("sparse"):
            checks.extend(_check_indices(loss, output, targets.get(name), where))
    return checks


def _cross_entropy(loss):
    """Returns the loss given to `compile` if it is one cross-entropy of Keras, else `None`."""
    loss = None if keras.tree.is_nested(loss) else keras.losses.get(loss)
    is_known = loss is not None and loss.__module__.startswith("keras.")
    return loss if is_known and "categorical_crossentropy" in name_of_loss(loss) else None


def _check_probabilities(loss, output, where):
    ends_in_softmax = backend.keras_logits(output) is not None
    if getattr(loss, "get_config", dict)().get("from_logits", False):
        if ends_in_softmax:
            raise ValueError(
                f"{where.capitalize()} ends in a softmax, but its loss was built with "
                "from_logits=True, so that training and attack see the wrong loss. Use "
                "from_logits=False, or remove the last activation. "
                f"Received: loss={name_of_loss(loss)!r} with from_logits=True"
            )
        return []
    # A softmax returns probabilities for any input.
    if ends_in_softmax:
        return []
    output = ops.cast(output, "float32")
    message = (
        f"The loss takes probabilities, and {where} gives other values. Use a loss with "
        "from_logits=True, or end the model with a softmax. Received: outputs from {} to {}"
    )
    return [Requirement(are_probabilities(output), message, (ops.min(output), ops.max(output)))]


def _check_indices(loss, output, labels, where):
    shape = tuple(output.shape)
    if tuple(getattr(labels, "shape", ())) not in (shape[:-1], (*shape[:-1], 1)):
        return []
    labels = ops.cast(labels, "int32")
    ignored = getattr(loss, "ignore_class", None)
    # An ignored label may be any number. Class 0 is always valid.
    if ignored is not None:
        labels = ops.where(ops.equal(labels, ignored), 0, labels)
    fits = ops.logical_and(labels >= 0, labels < shape[-1])
    message = (
        f"Labels must be class indices from 0 to {shape[-1] - 1}, as {where} has {shape[-1]} "
        "classes. Received: a batch with labels from {} to {}"
    )
    return [Requirement(ops.all(fits), message, (ops.min(labels), ops.max(labels)))]


def _by_name(structure, names):
    """Returns a dict that maps the name of each output to its part of `structure`."""
    if isinstance(structure, dict):
        return structure
    if isinstance(structure, (list, tuple)):
        return dict(zip(names, structure, strict=False))
    return dict.fromkeys(names, structure)


def warn_of_metrics(classifier, outputs, y, logs):
    """Warns where an accuracy in the logs does not fit the compiled loss.

    Args:
        classifier: a `models.Classifier`.
        outputs: the outputs of the model.
        y: the labels.
        logs: dict, keyed by the names of the compiled metrics.
    """
    _warn_of_threshold(classifier, outputs)
    is_regression = classifier.is_known_loss and classifier.loss_name in _REGRESSION
    if not is_regression or classifier.is_classification(outputs, y):
        return
    shape, wanted = (tuple(getattr(single(part), "shape", ())) for part in (outputs, y))
    if len(shape) == 2 and shape[1:] == wanted[1:] != (1,) and any("acc" in name for name in logs):
        warnings.warn(
            "The model has an accuracy as a metric and is trained as a regression: the attack "
            "maximizes the loss of the regression, and the logs have `adv_loss` and no "
            "`adv_accuracy`. For one-hot labels, compile the model with "
            "CategoricalCrossentropy(from_logits=True), or with from_logits=False if it ends in "
            f"a softmax. Received: loss={classifier.loss_name!r} with labels of shape {wanted}",
            stacklevel=2,
        )


def _warn_of_threshold(classifier, outputs):
    """Warns if a compiled accuracy mistakes logits for probabilities, as the default one does."""
    is_logit = classifier.is_known_loss and classifier.from_logits
    if not is_logit or getattr(single(outputs), "shape", (0,))[-1] != 1:
        return
    metrics = [own for one in classifier.model.metrics for own in getattr(one, "metrics", [one])]
    for metric in metrics:
        if isinstance(metric, keras.metrics.BinaryAccuracy) and metric.threshold == 0.5:
            warnings.warn(
                f"The metric {metric.name!r} takes a logit above 0.5 for class 1, and "
                "`adv_accuracy` a logit above 0, so that the two cannot be compared. Compile "
                'with metrics=[keras.metrics.BinaryAccuracy(threshold=0, name="accuracy")]. '
                "Received: one logit for each example and a threshold of 0.5",
                stacklevel=2,
            )
