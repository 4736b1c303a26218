"""The seam for TensorFlow."""
