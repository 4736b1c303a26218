"""The compiled loss of a model: its name, and whether it takes logits."""

import re

import keras

REDUCTIONS = ("sum", "mean", "mean_with_sample_weight", "sum_over_batch_size")
BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", "hinge", "squared_hinge")
# The losses of this package that take labels and logits.
OWN_LOSSES = (
    "dlr",
    "margin",
    "probability_margin",
    "soft_margin",
    "temperature_cross_entropy",
)


def read_loss(model):
    """Returns three properties of the compiled loss of a model.

    Returns:
        The snake-case name, `""` for a model without a loss and `"several"` for several losses;
        `from_logits`, a bool, or `None` if the loss does not say; and whether the loss is one of
        Keras or of this package.
    """
    loss = getattr(model, "loss", None) if isinstance(model, keras.Model) else None
    losses = [item for item in keras.tree.flatten(loss) if item is not None]
    if len(losses) != 1:
        return "several" if losses else "", None, False
    loss = keras.losses.get(losses[0])
    name = name_of_loss(loss)
    module = getattr(loss, "__module__", type(loss).__module__)
    if module.startswith("keras."):
        return name, _from_logits(loss, name), True
    is_own = module.startswith("keras_robust.losses.") and name in OWN_LOSSES
    return name, is_own or None, is_own


def _from_logits(loss, name):
    """Returns the `from_logits` of a loss of Keras, or `None` if it is not a cross-entropy."""
    if "crossentropy" not in name:
        return None
    config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    return bool(config.get("from_logits", False))


def name_of_loss(loss):
    """Returns the snake-case name of the function or class of a loss."""
    name = getattr(loss, "__name__", type(loss).__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
