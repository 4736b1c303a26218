"""Threat models: the perturbations that an attacker may choose."""

import numbers

import numpy as np

from keras_robust.threat_models.affine import Affine
from keras_robust.threat_models.at_layer import AtLayer
from keras_robust.threat_models.joint import Joint
from keras_robust.threat_models.l0 import L0
from keras_robust.threat_models.l1 import L1
from keras_robust.threat_models.l2 import L2
from keras_robust.threat_models.linf import Linf
from keras_robust.threat_models.patch import Patch
from keras_robust.threat_models.per_input import PerInput
from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import registry
from keras_robust.threat_models.universal import Universal
from keras_robust.threat_models.untrusted_config import from_untrusted_config

ALL = (Affine, AtLayer, Joint, L0, L1, L2, Linf, Patch, PerInput, Universal)
registry.extend(ALL)


def get(identifier):
    """Returns the threat model for a name, a config, a class or an object.

    A dict from input names to threat models, or a list of threat models, returns a `PerInput`.
    """
    is_config = isinstance(identifier, dict) and "class_name" in identifier
    if isinstance(identifier, (list, tuple)) and all(map(_is_number, identifier)) and identifier:
        raise registry.unknown(np.asarray(identifier))  # Probably the labels.
    if isinstance(identifier, (dict, list, tuple)) and not is_config:
        return PerInput(identifier)
    if _is_number(identifier) or _is_radius(identifier):
        raise ValueError(
            "A radius alone is not a threat model: name the norm, such as "
            f"kr.Linf({identifier!r}). Received: {identifier!r}"
        )
    return registry.get(identifier)


def _is_number(identifier):
    return isinstance(identifier, numbers.Real)


def _is_radius(identifier):
    return isinstance(identifier, str) and identifier[:1].isdigit()


__all__ = [
    "ALL",
    "Affine",
    "AtLayer",
    "Joint",
    "L0",
    "L1",
    "L2",
    "Linf",
    "Patch",
    "PerInput",
    "ThreatModel",
    "Universal",
    "from_untrusted_config",
    "get",
]
