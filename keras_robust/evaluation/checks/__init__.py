"""Checks that tell whether the attacks of an evaluation worked."""
