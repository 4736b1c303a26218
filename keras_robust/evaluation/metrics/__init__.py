"""Metrics of the results of an evaluation."""
