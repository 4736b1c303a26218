"""Detects a step size that is given in other units than the radius."""

import numpy as np


def step_size_complaint(attack, threat_model):
    """Returns a warning text if the step size is too small for the radius, or `None`.

    All steps together must cover at least half of the radius,
    `num_steps * step_size >= radius / 2`. Published settings cover more than the radius.

    Args:
        attack: an `Attack`.
        threat_model: a `ThreatModel`.
    """
    step_size = getattr(attack, "parsed_step_size", None)
    if step_size is None or threat_model.is_scheduled:
        return None
    radius, reach = float(np.max(threat_model.radius)), attack.num_steps * step_size
    if 2.0 * reach >= radius * (1.0 - 1e-6):  # The radius is rounded to float32.
        return None
    return (
        f"The steps of {type(attack).__name__} are too small for the radius: {attack.num_steps} of "
        f"them lead {reach:.4g} at most, and epsilon is {radius:.4g}. Give `step_size` in the "
        "units of the inputs, or leave it out. "
        f"Received: step_size={attack.step_size!r}"
    )
