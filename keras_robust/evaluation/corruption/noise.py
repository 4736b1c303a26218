"""Noise of a camera: of low light, of counted photons, and of broken pixels."""

import numpy as np


def gaussian_noise(x, rng, stddev):
    """Returns `x + n`, with `n` from a normal distribution."""
    return x + rng.normal(0.0, stddev, x.shape)


def shot_noise(x, rng, photons):
    """Returns `Poisson(photons x) / photons`."""
    return rng.poisson(photons * x) / photons


def impulse_noise(x, rng, share):
    """Returns the image with a share of its values replaced by black or white."""
    # The channels of a pixel break one by one, as in the authors' code.
    replaced = rng.uniform(size=x.shape) < share
    return np.where(replaced, rng.uniform(size=x.shape) < 0.5, x)
