"""From a hardened model to a served one."""

from keras_robust.export.saved_model import export_saved_model

__all__ = ["export_saved_model"]
