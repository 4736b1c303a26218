"""From a hardened model to a served one."""

from keras_robust.export.portable import export_portable
from keras_robust.export.saved_model import export_saved_model
from keras_robust.export.verify import compare_robustness
from keras_robust.export.verify import replay_in_fresh_process

__all__ = [
    "compare_robustness",
    "export_portable",
    "export_saved_model",
    "replay_in_fresh_process",
]
