"""Checks of whether the attacks of an evaluation worked."""
