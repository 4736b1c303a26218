"""Attacks that need the logits of the model and no gradients."""
