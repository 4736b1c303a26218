"""Warnings about the first batch of a training."""

import math
import warnings

import numpy as np

from keras_robust.threat_models.units import size_of

_ZERO_GRADIENT = (
    "Every input gradient of the first batch is zero, so that the attack finds nothing, and the "
    "model seems robust although it is not. Look for a saturated softmax, dead units or a layer "
    "without a gradient; let the model return logits. Received: a zero gradient for 100% of the "
    "examples"
)
_LARGER_THAN_RANGE = (
    "Epsilon is larger than the range of all values in the first batch, so that every example "
    "may become any other. Either epsilon has other units than the inputs, or the inputs have "
    "been rescaled, for example by the preprocessor of a task of keras_hub. Give `epsilon` and "
    "`bounds` in the units of these inputs."
)


def warn_of_first_batch(zero_gradient, attacked_inputs, share_of_range, stacklevel=2):
    """Warns of an attack without a gradient, and of an epsilon in other units than the inputs.

    Args:
        zero_gradient: float, the share of examples whose input gradients were all zero.
        attacked_inputs: list of pairs of a threat model for one input, and the shape of an example.
        share_of_range: float, the radius divided by the radius that makes every example feasible.
        stacklevel: see `warnings.warn`.
    """
    if zero_gradient == 1.0:
        warnings.warn(_ZERO_GRADIENT, stacklevel=stacklevel + 1)
    extent = _extent(attacked_inputs, share_of_range)
    sizes = [size_of(ball, shape, extent) for ball, shape in attacked_inputs]
    complaints = [size.complaint for size in sizes if size is not None and size.complaint]
    if share_of_range > 1.0:
        complaints = [_LARGER_THAN_RANGE]
    if complaints:
        balls = ", ".join(repr(ball) for ball, _ in attacked_inputs)
        warnings.warn(f"{complaints[0]} Received: {balls}", stacklevel=stacklevel + 1)


def _extent(attacked_inputs, share_of_range):
    """Returns the range of the values of the only input, or `None` if it is not known."""
    (ball, shape), *others = attacked_inputs or [(None, ())]
    if ball is None or others or ball.order is None or ball.is_scheduled or not share_of_range:
        return None
    num_features = math.prod(size or 1 for size in shape)
    whole = float(np.max(ball.epsilon)) / share_of_range
    return 0.0, whole / num_features ** (1.0 / ball.order)
