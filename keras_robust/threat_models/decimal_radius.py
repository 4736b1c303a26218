"""The radius of a threat model as the user wrote it."""

import numpy as np


def decimal_radius(threat_model):
    """Returns the radius in float64 as it was written: 0.3, not 0.30000001192092896."""
    # The shortest decimal of a float32 is the number that the user wrote.
    radius = np.asarray(threat_model.radius)
    return np.reshape([float(str(number)) for number in radius.ravel()], radius.shape)
