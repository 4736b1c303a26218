"""Initializers of weights, for layers of Keras."""

from keras_robust.initializers.ibp_normal import IBPNormal

__all__ = ["IBPNormal"]
