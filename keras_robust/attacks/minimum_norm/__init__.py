"""Attacks that search for the smallest perturbation, whatever the radius."""
