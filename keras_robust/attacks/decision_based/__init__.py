"""Attacks that need the predicted class of the model and nothing else."""
