"""Image classification data as NumPy arrays: the embedded digits, and any TensorFlow data set."""

from keras_robust.datasets.dataset import Dataset
from keras_robust.datasets.load import load

__all__ = ["Dataset", "load"]
