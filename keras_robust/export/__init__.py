"""From a hardened model to a served one."""

try:
    import tensorflow  # noqa: F401
except ImportError as error:
    raise ImportError(
        "Exports are written with TensorFlow, on the JAX backend too, and it is not installed: "
        f"`pip install tensorflow`. Received: {error}"
    ) from error

from keras_robust.export.portable import export_portable
from keras_robust.export.saved_model import export_saved_model
from keras_robust.export.verify import compare_robustness
from keras_robust.export.verify import replay_in_fresh_process
from keras_robust.export.vnnlib import export_vnnlib

__all__ = [
    "compare_robustness",
    "export_portable",
    "export_saved_model",
    "export_vnnlib",
    "replay_in_fresh_process",
]
