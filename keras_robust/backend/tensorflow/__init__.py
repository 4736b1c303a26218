"""The backend for TensorFlow."""
