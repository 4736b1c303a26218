"""What can be proven about a model?"""

from keras_robust.certification.linear import Exact
from keras_robust.certification.linear import exact_linear

__all__ = ["Exact", "exact_linear"]
