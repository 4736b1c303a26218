"""Keras layers: input transformations with usable gradients, Lipschitz layers, and wrappers."""

from keras_robust.calls import explain_calls
from keras_robust.layers.bit_depth import BitDepth
from keras_robust.layers.feature_squeezing_detector import FeatureSqueezingDetector
from keras_robust.layers.group_sort import GroupSort
from keras_robust.layers.input_guard import InputGuard
from keras_robust.layers.input_transformation import InputTransformation
from keras_robust.layers.jpeg import JPEG
from keras_robust.layers.median_smoothing import MedianSmoothing
from keras_robust.layers.orthogonal_conv2d import OrthogonalConv2D
from keras_robust.layers.paired_logits import PairedLogits
from keras_robust.layers.randomized_smoothing import RandomizedSmoothing
from keras_robust.layers.spectral_dense import SpectralDense
from keras_robust.layers.temperature import Temperature
from keras_robust.layers.thermometer import Thermometer

ALL = (
    JPEG,
    BitDepth,
    FeatureSqueezingDetector,
    GroupSort,
    InputGuard,
    MedianSmoothing,
    OrthogonalConv2D,
    PairedLogits,
    RandomizedSmoothing,
    SpectralDense,
    Temperature,
    Thermometer,
)
explain_calls(ALL)

__all__ = [
    "ALL",
    "BitDepth",
    "FeatureSqueezingDetector",
    "GroupSort",
    "InputGuard",
    "InputTransformation",
    "JPEG",
    "MedianSmoothing",
    "OrthogonalConv2D",
    "PairedLogits",
    "RandomizedSmoothing",
    "SpectralDense",
    "Temperature",
    "Thermometer",
]
