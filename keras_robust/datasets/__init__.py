"""Image classification data sets as NumPy arrays: the digits, and TensorFlow Datasets."""

from keras_robust.datasets.dataset import Dataset
from keras_robust.datasets.load import load

__all__ = ["Dataset", "load"]
