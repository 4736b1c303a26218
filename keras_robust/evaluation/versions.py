"""The versions of the libraries on which a result may depend."""

import platform

import keras
import numpy as np

from keras_robust.version import __version__


def library_versions():
    """Returns a dict from the name of a library to its version, and the name of the backend."""
    return {
        "keras_robust": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
