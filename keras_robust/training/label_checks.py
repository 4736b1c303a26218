"""Checks of the labels and the sample weights of a training batch."""

import contextlib

import keras
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.backend.requirement import Requirement
from keras_robust.models.compiled_loss import OWN_LOSSES
from keras_robust.models.structures import single
from keras_robust.training.output_checks import check_each_output

_HINGE = "Keras turns 0 and 1 into the -1 and 1 of the hinge. "
_UNLABELLED = (
    "Examples without a label have the label -1, and need a loss that leaves them out: "
    "SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1). "
)
_IGNORED = (
    "Examples that the loss ignores cannot be attacked: leave them out of the data, or learn from "
    "them with the objective VAT. "
)


def check_labels(classifier, x, y, unlabelled=False, sample_weight=None):
    """Returns a list of `Requirement`: every label is a class of the model.

    Args:
        classifier: a `models.Classifier`.
        x: the tensor that is attacked.
        y: the labels.
        unlabelled: the `takes_unlabelled` of the objective, which decides whether -1 is allowed.
        sample_weight: the sample weights, or `None`.

    Raises:
        ValueError: for labels or sample weights of a shape that the loss does not take.
    """
    is_built = getattr(classifier.model, "built", True)
    # The check may build the model, but must not change the variables of a model that is built.
    with backend.forgotten_pass(classifier.model) if is_built else contextlib.nullcontext():
        outputs = classifier(x)
    _refuse_one_column(classifier, outputs)
    if not classifier.is_classification(outputs, y):
        return check_each_output(classifier.model, outputs, y)
    num_classes = classifier.to_logits(outputs, y).shape[-1]
    labels = single(y)
    _refuse_several(labels)
    _refuse_weight_rows(sample_weight)
    _refuse_other_form(classifier, outputs, labels, num_classes)
    return [
        *_whole_numbers(classifier, labels),
        _valid_classes(classifier, labels, num_classes, unlabelled),
    ]


def _refuse_one_column(classifier, outputs):
    """Raises ValueError for a single output under a loss over several classes."""
    outputs = single(outputs)
    shape = getattr(outputs, "shape", ())
    is_categorical = "categorical" in classifier.loss_name and classifier.is_known_loss
    if is_categorical and len(shape) == 2 and shape[-1] == 1:
        raise ValueError(
            "A model with one output is a binary classifier: compile it with BinaryCrossentropy, "
            "or give it one output for each class. "
            f"Received: outputs of shape {tuple(shape)} under the loss {classifier.loss_name!r}"
        )


def _refuse_several(labels):
    """Raises ValueError unless the labels are one array."""
    if not hasattr(labels, "shape"):
        shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(labels)]
        raise ValueError(
            "The model has one output, and takes one array of labels. "
            f"Received: {len(shapes)} of shapes {shapes}"
        )


def _refuse_weight_rows(sample_weight):
    """Raises ValueError unless there is one sample weight per example."""
    for leaf in keras.tree.flatten(sample_weight):
        shape = tuple(getattr(leaf, "shape", ()))
        if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
            raise ValueError(
                "A classifier takes one sample weight for each example. "
                f"Received: sample weights of shape {shape}"
            )


def _refuse_other_form(classifier, outputs, labels, num_classes):
    """Raises ValueError for one-hot rows where the loss takes class indices, and vice versa."""
    is_sparse_loss = classifier.loss_name.startswith("sparse")
    if is_sparse_loss and len(labels.shape) == 2 and labels.shape[-1] == num_classes > 1:
        raise ValueError(
            "The loss takes class indices, and the labels are one-hot rows. Use "
            "CategoricalCrossentropy, or `numpy.argmax(y, axis=-1)`. "
            f"Received: labels of shape {tuple(labels.shape)}"
        )
    if _takes_rows(classifier, outputs) and (len(labels.shape) < 2 or labels.shape[-1] == 1):
        raise ValueError(
            "The loss takes one-hot rows, and the labels are class indices. Use "
            "SparseCategoricalCrossentropy, or `keras.utils.to_categorical(y)`. "
            f"Received: labels of shape {tuple(labels.shape)} under {classifier.loss_name!r}"
        )


def _takes_rows(classifier, outputs):
    """Returns whether the compiled loss takes one-hot rows.

    All losses of Keras do, except the sparse ones and those of a single output.
    """
    name, is_keras = classifier.loss_name, classifier.is_known_loss
    # The losses of this package take class indices and one-hot rows alike.
    is_keras = is_keras and name not in OWN_LOSSES
    return is_keras and not name.startswith("sparse") and single(outputs).shape[-1] > 1


def _whole_numbers(classifier, labels):
    """Returns a list of `Requirement`: float labels under a sparse loss are whole numbers."""
    if not _is_floating(labels) or not classifier.loss_name.startswith("sparse"):
        return []
    broken = ops.sum(ops.cast(ops.not_equal(labels, ops.round(labels)), "int32"))
    message = (
        "Labels under a sparse loss must be whole numbers. Received: a batch with {} labels that "
        "are not whole"
    )
    return [Requirement(ops.equal(broken, 0), message, (broken,))]


def _valid_classes(classifier, labels, num_classes, unlabelled):
    """Returns the `Requirement` that the labels are classes, or -1 where that is allowed."""
    indices = losses.to_indices(labels, num_classes)
    advice = _HINGE if classifier.loss_name in ("hinge", "squared_hinge") else ""
    lowest = -1 if unlabelled else 0
    if unlabelled == "if_ignored" and not classifier.ignores(-1):
        lowest, advice = 0, advice or _UNLABELLED
    elif not unlabelled and classifier.is_known_loss and classifier.ignores(-1):
        advice = _IGNORED
    return Requirement(
        ops.all(ops.logical_and(indices >= lowest, indices < num_classes)),
        f"Labels must be class indices from 0 to {num_classes - 1}, as the model has "
        f"{num_classes} classes. {advice}Received: a batch with labels from {{}} to {{}}",
        (ops.min(indices), ops.max(indices)),
    )


def check_targets(y, sample_weight):
    """Returns a list of `Requirement`: labels and sample weights are finite."""
    checks = []
    for name, structure in (("Labels", y), ("Sample weights", sample_weight)):
        for leaf in keras.tree.flatten(structure):
            if _is_floating(leaf):
                bad = ops.sum(ops.cast(ops.logical_not(ops.isfinite(leaf)), "int32"))
                message = (
                    f"{name} must be finite. Received: a batch with {{}} NaN or infinite values"
                )
                checks.append(Requirement(ops.equal(bad, 0), message, (bad,)))
    return checks


def _is_floating(leaf):
    return ops.is_tensor(leaf) and "float" in keras.backend.standardize_dtype(leaf.dtype)
