"""TensorFlow: ops that stop a training on data that no attack should see."""

import keras
import tensorflow as tf

from keras_robust import losses
from keras_robust.backend.classifier import single
from keras_robust.backend.tensorflow import require

_TOLERANCE = 1e-3
_STRATEGIES = ("_DefaultDistributionStrategy", "MirroredStrategy", "OneDeviceStrategy")
_HINGE = "Keras turns 0 and 1 into the -1 and 1 of the hinge. "
_UNLABELLED = (
    "Examples without a label, which have the label -1, need a loss that leaves them out: "
    "SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1). "
)


def check_distribution(model):
    """Says what to do about a distribution under which Keras on TensorFlow fails, or trains alone.

    Raises:
        ValueError: for `keras.distribution`, several workers, and, under several replicas,
            `steps_per_execution` and gradient accumulation.
    """
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            "`keras.distribution` does not distribute on the TensorFlow backend: every device "
            "would be idle but one, without a word. Use tf.distribute.MirroredStrategy for the "
            "GPUs of one machine, or the JAX backend, KERAS_BACKEND=jax, for several machines. "
            f"Received: {type(distribution).__name__} with KERAS_BACKEND=tensorflow"
        )
    strategy = model.distribute_strategy
    name, replicas = type(strategy).__name__, strategy.num_replicas_in_sync
    if name not in _STRATEGIES:
        raise ValueError(
            "Keras 3 cannot train under this strategy: of those of TensorFlow, `fit` works with "
            "tf.distribute.MirroredStrategy, on one machine. For several machines use the JAX "
            "backend, KERAS_BACKEND=jax, with keras.distribution.DataParallel. "
            f"Received: {name} with {replicas} replicas"
        )
    if replicas == 1:
        return
    sums = getattr(strategy.extended, "_cross_device_ops", None)
    collective = not isinstance(sums, tf.distribute.ReductionToOneDevice)
    if model.steps_per_execution != 1 and collective:
        raise ValueError(
            "TensorFlow's collective sums over replicas fail inside of several steps at once. Use "
            "steps_per_execution=1, or a strategy with "
            "cross_device_ops=tf.distribute.ReductionToOneDevice(). Received: "
            f"steps_per_execution={model.steps_per_execution} with {replicas} replicas and "
            f"cross_device_ops={type(sums).__name__}"
        )
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise ValueError(
            "Keras cannot accumulate gradients under a strategy of several replicas. Use larger "
            "batches, or one device. Received: gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps} with {replicas} replicas"
        )


def check_inputs(inputs, threat_model):
    """Ops that fail on NaN and on inputs outside the bounds."""
    checks = []

    def check(leaf, name, ball):
        if ball is not None or (isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating):
            label = "Inputs" if name is None else f"The values of input `{name}`"
            checks.extend(_check_input(tf.cast(leaf, tf.float32), label, ball))
        return leaf

    threat_model.map_inputs(check, inputs)
    return checks


def _check_input(x, label, threat_model):
    bad = tf.reduce_sum(tf.cast(~tf.math.is_finite(x), tf.int32))
    checks = [
        require(
            bad == 0,
            f"{label} must be finite. Clean the data, or drop the broken examples. "
            "Received: a batch with {} NaN or infinite values",
            bad,
        )
    ]
    if threat_model is not None and threat_model.bounds is not None:
        low, high = threat_model.bounds
        inside = tf.reduce_all((x >= low - _TOLERANCE) & (x <= high + _TOLERANCE))
        checks.append(
            require(
                inside | (bad > 0),
                f"{label} must lie in the bounds of the threat model. Rescale them (images: divide "
                "by 255), or give the bounds that they have, with epsilon in the same units: "
                "Linf(8, bounds=(0, 255)). Received: a batch with values from {} to {} "
                f"under bounds={_show(threat_model.bounds)}",
                tf.reduce_min(x),
                tf.reduce_max(x),
            )
        )
    return checks


def _show(bounds):
    return str(tuple(bounds)).replace("{", "(").replace("}", ")").replace("\n", " ")


def check_labels(classifier, x, y, unlabelled=False, sample_weight=None):
    """Ops that fail on labels that are no class of the model; sample weights must be one for each.

    `unlabelled` is the `takes_unlabelled` of an objective: whether -1 is let through.
    """
    outputs = classifier(x)
    _refuse_one_column(classifier, outputs)
    if not classifier.is_classification(outputs, y):
        return []
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
    takes_rows = classifier.is_known_loss and classifier.loss_name.startswith("categorical_")
    if takes_rows and num_classes > 1 and (len(labels.shape) < 2 or labels.shape[-1] == 1):
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
    whole = []
    if labels.dtype.is_floating and classifier.loss_name.startswith("sparse"):
        broken = tf.reduce_sum(tf.cast(labels != tf.round(labels), tf.int32))
        message = (
            "Labels under a sparse loss must be whole numbers. Received: a batch with {} others"
        )
        whole = [require(broken == 0, message, broken)]
    return [
        *whole,
        require(
            tf.reduce_all((indices >= lowest) & (indices < num_classes)),
            f"Labels must be class indices from 0 to {num_classes - 1}, as the model has "
            f"{num_classes} classes. {advice}Received: a batch with labels from {{}} to {{}}",
            tf.reduce_min(indices),
            tf.reduce_max(indices),
        ),
    ]


def check_targets(y, sample_weight):
    """Ops that fail on labels and sample weights that are no numbers."""
    checks = []
    for name, structure in (("Labels", y), ("Sample weights", sample_weight)):
        for leaf in keras.tree.flatten(structure):
            if isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating:
                bad = tf.reduce_sum(tf.cast(~tf.math.is_finite(leaf), tf.int32))
                message = (
                    f"{name} must be finite. Received: a batch with {{}} NaN or infinite values"
                )
                checks.append(require(bad == 0, message, bad))
    return checks


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
    """Ops that fail when probabilities are taken for logits, or logits for probabilities."""
    if problem is None:
        return []
    outputs = single(outputs)
    return [require(~problem[0], problem[1], tf.reduce_min(outputs), tf.reduce_max(outputs))]
