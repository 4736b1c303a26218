"""What a training requires of its data, which no attack should see otherwise."""

import contextlib
import warnings

import keras
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.backend.requirement import Requirement
from keras_robust.configurable import shown
from keras_robust.models.batch_size import WRONG_SIZE
from keras_robust.models.batch_size import fixed_batch_size
from keras_robust.models.classifier import OWN_LOSSES
from keras_robust.models.classifier import are_probabilities
from keras_robust.models.classifier import name_of_loss
from keras_robust.models.classifier import single
from keras_robust.models.structures import is_sparse
from keras_robust.threat_models.parsing import box_slack

_TOLERANCE = 1e-3  # Of the width of the box.
_REGRESSION = ("mean_squared_error", "mean_absolute_error", "mean_squared_logarithmic_error")
_REGRESSION += ("huber", "log_cosh", "cosine_similarity")
_HINGE = "Keras turns 0 and 1 into the -1 and 1 of the hinge. "
_UNLABELLED = (
    "Examples without a label, which have the label -1, need a loss that leaves them out: "
    "SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1). "
)


_IGNORED = (
    "What the loss ignores cannot be attacked: leave it out of the data, or learn from it with the "
    "objective VAT. "
)


def check_inputs(inputs, threat_model):
    """Returns a list of `Requirement`: no NaN, and no inputs outside the bounds."""
    checks = []

    def check(leaf, name, ball):
        if ball is None and is_sparse(leaf):
            # What there is of it is read, whatever else is zero.
            leaf = leaf.data if hasattr(leaf, "data") else leaf.values
        dtype = str(getattr(leaf, "dtype", ""))
        if ball is not None or "float" in dtype:
            label = "Inputs" if name is None else f"The values of input `{name}`"
            checks.extend(_check_input(ops.cast(leaf, "float32"), label, ball))
        return leaf

    threat_model.map_inputs(check, inputs)
    return checks


def _check_input(x, label, threat_model):
    bad = ops.sum(ops.cast(ops.logical_not(ops.isfinite(x)), "int32"))
    checks = [
        Requirement(
            ops.equal(bad, 0),
            f"{label} must be finite. Clean the data, or drop the broken examples. "
            "Received: a batch with {} NaN or infinite values",
            (bad,),
        )
    ]
    if threat_model is not None and threat_model.bounds is not None:
        low, high = threat_model.bounds
        slack = box_slack(threat_model.bounds, _TOLERANCE)
        inside = ops.all(ops.logical_and(x >= low - slack, x <= high + slack))
        checks.append(
            Requirement(
                ops.logical_or(inside, bad > 0),
                f"{label} must lie in the bounds of the threat model. Rescale them (images: divide "
                "by 255), or give the bounds that they have, with epsilon in the same units: "
                "Linf(8, bounds=(0, 255)). Received: a batch with values from {} to {} "
                f"under bounds={_show(threat_model.bounds)}",
                (ops.min(x), ops.max(x)),
            )
        )
    return checks


def attacked_inputs(inputs, threat_model):
    """Returns a pair of a threat model and the shape of an example for each perturbed input."""
    attacked = []

    def note(leaf, name, ball):
        if ball is not None:
            attacked.append((ball, tuple(leaf.shape[1:])))
        return leaf

    threat_model.map_inputs(note, inputs)
    return attacked


def share_of_range(inputs, threat_model):
    """Returns the largest radius over the one that makes all of the range of a batch feasible.

    A scalar tensor, 0 where no radius has the units of an input, and for inputs of one value.
    """
    shares = [ops.zeros((), "float32")]

    def note(leaf, name, ball):
        if ball is not None and ball.order is not None:
            x = ops.cast(leaf, "float32")
            whole = (ops.max(x) - ops.min(x)) * _num_features(x) ** (1.0 / ball.order)
            share = ops.max(ball.radius) / ops.maximum(whole, 1e-30)
            shares.append(ops.where(whole > 0.0, share, 0.0))
        return leaf

    threat_model.map_inputs(note, inputs)
    return ops.max(ops.stack(shares))


def _num_features(x):
    return ops.cast(ops.prod(ops.shape(x)[1:]), "float32")


def _show(bounds):
    return shown(tuple(bounds)).replace("{", "(").replace("}", ")").replace("\n", " ")


def check_labels(classifier, x, y, unlabelled=False, sample_weight=None):
    """Returns a list of `Requirement`: no labels that are no class of the model.

    Sample weights must be one for each example.

    `unlabelled` is the `takes_unlabelled` of an objective: whether -1 is let through.
    """
    is_built = getattr(classifier.model, "built", True)
    with backend.forgotten_pass(classifier.model) if is_built else contextlib.nullcontext():
        outputs = classifier(x)
    _refuse_one_column(classifier, outputs)
    if not classifier.is_classification(outputs, y):
        return _check_each(classifier.model, outputs, y)
    num_classes = classifier.to_logits(outputs, y).shape[-1]
    labels = single(y)
    if not hasattr(labels, "shape"):
        shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(labels)]
        raise ValueError(
            "The model has one output, and takes one array of labels. "
            f"Received: {len(shapes)} of shapes {shapes}"
        )
    _refuse_weight_rows(sample_weight)
    if classifier.loss_name.startswith("sparse") and len(labels.shape) == 2:
        if labels.shape[-1] == num_classes > 1:
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
    indices = losses.to_indices(labels, num_classes)
    advice = _HINGE if classifier.loss_name in ("hinge", "squared_hinge") else ""
    lowest = -1 if unlabelled else 0
    if unlabelled == "if_ignored" and not classifier.ignores(-1):
        lowest, advice = 0, advice or _UNLABELLED
    elif not unlabelled and classifier.is_known_loss and classifier.ignores(-1):
        advice = _IGNORED
    whole = []
    if _is_floating(labels) and classifier.loss_name.startswith("sparse"):
        broken = ops.sum(ops.cast(ops.not_equal(labels, ops.round(labels)), "int32"))
        message = (
            "Labels under a sparse loss must be whole numbers. Received: a batch with {} others"
        )
        whole = [Requirement(ops.equal(broken, 0), message, (broken,))]
    return [
        *whole,
        Requirement(
            ops.all(ops.logical_and(indices >= lowest, indices < num_classes)),
            f"Labels must be class indices from 0 to {num_classes - 1}, as the model has "
            f"{num_classes} classes. {advice}Received: a batch with labels from {{}} to {{}}",
            (ops.min(indices), ops.max(indices)),
        ),
    ]


def _takes_rows(classifier, outputs):
    """Whether the loss compares rows with rows: all of Keras but the sparse ones and one column."""
    name, is_keras = classifier.loss_name, classifier.is_known_loss
    is_keras = is_keras and name not in OWN_LOSSES
    return is_keras and not name.startswith("sparse") and single(outputs).shape[-1] > 1


def _check_each(model, outputs, y):
    """Returns a list of `Requirement` for each output of several, and for sequences of labels.

    As far as they have a cross-entropy of Keras: that it gets probabilities if it asks for them,
    and labels that are classes.
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
    """Returns what `compile` takes as a loss if it is one cross-entropy of Keras, else `None`."""
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
    if ends_in_softmax:
        return []
    output = ops.cast(output, "float32")
    message = (
        f"The loss takes probabilities, and {where} gives something else. Use a loss with "
        "from_logits=True, or end the model with a softmax. Received: outputs from {} to {}"
    )
    return [Requirement(are_probabilities(output), message, (ops.min(output), ops.max(output)))]


def _check_indices(loss, output, labels, where):
    shape = tuple(output.shape)
    if tuple(getattr(labels, "shape", ())) not in (shape[:-1], (*shape[:-1], 1)):
        return []
    labels = ops.cast(labels, "int32")
    ignored = getattr(loss, "ignore_class", None)
    if ignored is not None:
        labels = ops.where(ops.equal(labels, ignored), 0, labels)
    fits = ops.logical_and(labels >= 0, labels < shape[-1])
    message = (
        f"Labels must be class indices from 0 to {shape[-1] - 1}, as {where} has {shape[-1]} "
        "classes. Received: a batch with labels from {} to {}"
    )
    return [Requirement(ops.all(fits), message, (ops.min(labels), ops.max(labels)))]


def _by_name(structure, names):
    """Returns a dict with a part of a structure for each output."""
    if isinstance(structure, dict):
        return structure
    if isinstance(structure, (list, tuple)):
        return dict(zip(names, structure, strict=False))
    return dict.fromkeys(names, structure)


def check_size(model, x):
    """Returns a list of `Requirement`: a batch has the size for which the model was built."""
    wanted = fixed_batch_size(model)
    if wanted is None:
        return []
    size = ops.convert_to_tensor(ops.shape(x)[0])
    return [Requirement(ops.equal(size, wanted), WRONG_SIZE.format(wanted, "{}"), (size,))]


def check_targets(y, sample_weight):
    """Returns a list of `Requirement`: labels and sample weights are numbers."""
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


def _refuse_weight_rows(sample_weight):
    for leaf in keras.tree.flatten(sample_weight):
        shape = tuple(getattr(leaf, "shape", ()))
        if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
            raise ValueError(
                "A classifier takes one sample weight for each example. "
                f"Received: sample weights of shape {shape}"
            )


def _refuse_one_column(classifier, outputs):
    """Raises `ValueError` for one output under a loss of several classes."""
    outputs = single(outputs)
    shape = getattr(outputs, "shape", ())
    is_categorical = "categorical" in classifier.loss_name and classifier.is_known_loss
    if is_categorical and len(shape) == 2 and shape[-1] == 1:
        raise ValueError(
            "A model with one output is a binary classifier: compile it with BinaryCrossentropy, "
            "or give it one output for each class. "
            f"Received: outputs of shape {tuple(shape)} under the loss {classifier.loss_name!r}"
        )


def check_outputs(problem, outputs):
    """Returns a list of `Requirement`: probabilities and logits are not mixed up."""
    if problem is None:
        return []
    outputs = single(outputs)
    values = ops.min(outputs), ops.max(outputs)
    return [Requirement(ops.logical_not(problem[0]), problem[1], values)]


def tell_of_classes(classifier, outputs, y, logs):
    """Warns if a loss of regression trains rows that are judged by an accuracy: they are classes.

    Args:
        classifier: a `models.Classifier`.
        outputs: those of the model.
        y: the labels.
        logs: dict by the names of the compiled metrics.
    """
    _tell_of_threshold(classifier, outputs)
    is_of_numbers = classifier.is_known_loss and classifier.loss_name in _REGRESSION
    if not is_of_numbers or classifier.is_classification(outputs, y):
        return
    shape, wanted = (tuple(getattr(single(part), "shape", ())) for part in (outputs, y))
    if len(shape) == 2 and shape[1:] == wanted[1:] != (1,) and any("acc" in name for name in logs):
        warnings.warn(
            "The model is judged by an accuracy and trained as a regression: the attack raises "
            "that loss, and the logs have `adv_loss` and no `adv_accuracy`. For one-hot labels "
            "compile it with CategoricalCrossentropy(from_logits=True), or with "
            "from_logits=False if it ends in a softmax. "
            f"Received: loss={classifier.loss_name!r} with labels of shape {wanted}",
            stacklevel=2,
        )


def _tell_of_threshold(classifier, outputs):
    """Warns if a compiled accuracy takes logits for probabilities, which Keras does by default."""
    is_logit = classifier.is_known_loss and classifier.from_logits
    if not is_logit or getattr(single(outputs), "shape", (0,))[-1] != 1:
        return
    metrics = [own for one in classifier.model.metrics for own in getattr(one, "metrics", [one])]
    for metric in metrics:
        if isinstance(metric, keras.metrics.BinaryAccuracy) and metric.threshold == 0.5:
            warnings.warn(
                f"The metric {metric.name!r} takes a logit above 0.5 for class 1, and "
                "`adv_accuracy` one above 0, so that the two cannot be compared. Compile with "
                'metrics=[keras.metrics.BinaryAccuracy(threshold=0, name="accuracy")]. '
                "Received: one logit for each example and a threshold of 0.5",
                stacklevel=2,
            )
