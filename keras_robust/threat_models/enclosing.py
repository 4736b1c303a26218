"""The ball and the box that hold every point that a threat model accepts as feasible."""

import numpy as np
from keras import ops

from keras_robust.threat_models.parsing import box_slack
from keras_robust.threat_models.threat_model import ROUNDING
from keras_robust.threat_models.threat_model import TOLERANCE

# `contains` computes in float32, and its own rounding may add to what it allows.
_TIMES = 2.0


def enclosing(threat_model, x):
    """Returns a radius and a box, a little larger than those of a threat model.

    Attacks compute in float32, so `contains` accepts points that rounding moved out of the ball or
    the box. A proof for this radius and box is about all points that count as feasible.

    Args:
        threat_model: a `ThreatModel` with one radius.
        x: float32 array, the clean inputs.

    Returns:
        A float, and a pair `(low, high)` or `None`.
    """
    radius = float(ops.convert_to_numpy(threat_model.radius))
    rounding = ops.convert_to_tensor(ROUNDING * np.abs(x))
    # One radius for all examples: the largest.
    rounding = np.max(threat_model.distance(rounding, ops.zeros_like(rounding)))
    radius += _TIMES * (TOLERANCE * radius + float(rounding))
    if threat_model.bounds is None:
        return radius, None
    low, high = threat_model.bounds
    slack = _TIMES * box_slack(threat_model.bounds, TOLERANCE)
    # A scalar bound stays a number, which a report can show.
    low, high = (np.asarray(end, "float32") for end in (low - slack, high + slack))
    return radius, tuple(float(end) if end.ndim == 0 else end for end in (low, high))
