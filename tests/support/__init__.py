"""Oracles and cases that several tests share."""
