"""Tests of keras_robust; the folders mirror the package."""
