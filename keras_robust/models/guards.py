"""Models with layers that reject inputs."""

import keras
import numpy as np

from keras_robust import backend
from keras_robust.backend.requirement import Requirement
from keras_robust.configurable import shown

_MESSAGE = (
    "A layer of the model rejects what it is given, which compiled code cannot do by an error: {}. "
    "Train with inputs, and noise, within its bounds, or let it clip: "
    "InputGuard(..., outside='clip')"
)


def rejecting_layers(model):
    """Returns the layers of a model that fail for inputs outside of bounds."""
    layers = backend.layers_of(model)
    return [layer for layer in layers if getattr(layer, "rejects_outside", False)]


def refuse_guards(model, threat_model):
    """Refuses points outside the bounds of a guard, where the guard cannot raise an error itself.

    A layer that rejects an input raises an error in a graph of TensorFlow. On JAX compiled code
    cannot, and a rejected point would look like one that the model resists.

    Raises:
        ValueError: if the threat model allows points that a layer of the model rejects.
    """
    if backend.RAISES_IN_GRAPHS:
        return
    bounds = getattr(threat_model, "bounds", None)
    for guard in rejecting_layers(model):
        if not getattr(threat_model, "changes_inputs", True) or _within(bounds, guard.bounds):
            continue
        raise ValueError(
            f"The model rejects inputs outside of the bounds of its layer {guard.name!r}, and the "
            "threat model allows them. Give it the same bounds, or let the layer clip: "
            "InputGuard(..., outside='clip'). "
            f"Received: threat model bounds {shown(bounds)} and layer bounds "
            f"{shown(guard.get_config()['bounds'])}"
        )


def finite_loss(model, loss):
    """Returns a list of `Requirement`: no guard has made the loss NaN."""
    return [
        Requirement(keras.ops.isfinite(loss), _MESSAGE.replace("{}", f"{guard.name!r}"), ())
        for guard in rejecting_layers(model)[:1]
    ]


def _within(inner, outer):
    # Several inputs have bounds of their own, which need not be those of the guard.
    if inner is None or isinstance(inner, dict):
        return inner is not None
    return bool(np.all(inner[0] >= outer[0]) and np.all(inner[1] <= outer[1]))
