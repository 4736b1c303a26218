"""What the first batch of a training tells about the ones to come."""

import math
import warnings

import numpy as np

from keras_robust.threat_models.units import size_of

_BLIND = (
    "Every input gradient of the first batch is zero, so that the attack found nothing and the "
    "model would look robust without being so. Look for a saturated softmax, dead units or a layer "
    "without a gradient; let the model return logits. "
    "Received: a zero gradient for 100% of the examples"
)
_MORE_THAN_ALL = (
    "Epsilon is larger than all of the range of the first batch, so that every example may become "
    "any other. Either epsilon has other units than the inputs, or the inputs have been rescaled, "
    "as by the preprocessor of a task of keras_hub. Give `epsilon` and `bounds` in the units of "
    "these inputs."
)


def warn_of_first_batch(zero_gradient, attacked, share_of_range, stacklevel=2):
    """Warns if the attack had no gradient, and of an epsilon in other units than the inputs.

    Args:
        zero_gradient: float, the share of examples whose every input gradient was zero.
        attacked: list of pairs of a threat model for one input and the shape of an example.
        share_of_range: float, the radius over that at which all of the range of the batch is
            feasible.
        stacklevel: as in `warnings.warn`.
    """
    if zero_gradient == 1.0:
        warnings.warn(_BLIND, stacklevel=stacklevel + 1)
    extent = _extent(attacked, share_of_range)
    sizes = [size_of(ball, shape, extent) for ball, shape in attacked]
    complaints = [size.complaint for size in sizes if size is not None and size.complaint]
    if share_of_range > 1.0:
        complaints = [_MORE_THAN_ALL]
    if complaints:
        balls = ", ".join(repr(ball) for ball, _ in attacked)
        warnings.warn(f"{complaints[0]} Received: {balls}", stacklevel=stacklevel + 1)


def _extent(attacked, share_of_range):
    """Returns the range that the only input has, or `None` if that is not known."""
    (ball, shape), *others = attacked or [(None, ())]
    if ball is None or others or ball.order is None or ball.is_scheduled or not share_of_range:
        return None
    num_features = math.prod(size or 1 for size in shape)
    whole = float(np.max(ball.epsilon)) / share_of_range
    return 0.0, whole / num_features ** (1.0 / ball.order)
