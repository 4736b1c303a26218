"""Attacks that follow the gradient of a loss within a ball of fixed radius."""
