"""Numbers that are computed from the outcome of an evaluation."""
