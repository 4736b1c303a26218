"""Models with layers that reject inputs."""

import keras
import numpy as np

from keras_robust import backend
from keras_robust.backend.requirement import Requirement
from keras_robust.configurable import short_repr

_MESSAGE = (
    "A layer of the model rejected its inputs, and compiled code cannot raise an error: {}. "
    "Train with inputs and noise within its bounds, or let the layer clip: InputGuard(..., "
    "outside='clip'). Received: a loss that is not finite"
)


def rejecting_layers(model):
    """Returns the layers of a model that fail for inputs outside of their bounds."""
    layers = backend.layers_of(model)
    return [layer for layer in layers if getattr(layer, "rejects_outside", False)]


def refuse_guards(model, threat_model):
    """Raises ValueError if the threat model allows points that a layer of the model rejects.

    On TensorFlow this is allowed, because a layer can raise an error in compiled code. On JAX it
    cannot, and the model would seem robust at every rejected point.
    """
    if backend.RAISES_IN_GRAPHS:
        return
    bounds = getattr(threat_model, "bounds", None)
    for guard in rejecting_layers(model):
        if not getattr(threat_model, "changes_inputs", True) or _within(bounds, guard.bounds):
            continue
        raise ValueError(
            f"The model rejects inputs outside of the bounds of its layer {guard.name!r}, and the "
            "threat model allows such inputs. Give the threat model the same bounds, or let the "
            "layer clip: InputGuard(..., outside='clip'). Received: threat model bounds "
            f"{short_repr(bounds)} and layer bounds {short_repr(guard.get_config()['bounds'])}"
        )


def finite_loss(model, loss):
    """Returns a list of `Requirement`: no rejecting layer has made the loss NaN."""
    return [
        Requirement(keras.ops.isfinite(loss), _MESSAGE.replace("{}", f"{guard.name!r}"), ())
        for guard in rejecting_layers(model)[:1]
    ]


def _within(inner, outer):
    # A threat model on several inputs has a dict of bounds, which may differ from those of the
    # guard.
    if inner is None or isinstance(inner, dict):
        return inner is not None
    return bool(np.all(inner[0] >= outer[0]) and np.all(inner[1] <= outer[1]))
