"""The genes of one-pixel attacks: positions and colors of pixels."""

import numpy as np
from keras import ops

from keras_robust.backend import counter_rng

_RESOLUTION = 2.0**23


class PixelGenes:
    """Translates genes into changed pixels.

    A pixel has one gene per axis of the image, its position as a share of the axis, and then one
    gene per channel, its color as a share of the box.

    Args:
        x: float tensor `(batch_size, ...)`, the clean examples.
        threat_model: an `L0`.
        count: int, the number of pixels of a member.
    """

    def __init__(self, x, threat_model, count):
        self.x, self.threat_model, self.count = x, threat_model, count
        self.axes = tuple(x.shape[1:-1]) or tuple(x.shape[1:]) or (1,)
        self.channels = x.shape[-1] if len(x.shape) > 2 else 1
        self.allowed = ops.floor(threat_model.counts()[:, 0] / pixel_cost(x, threat_model))

    def random_genes(self, keys, population_size):
        """Returns the first population, `(population_size, batch_size, genes)`."""
        per_pixel = len(self.axes) + 2 * self.channels
        total = population_size * self.count * per_pixel
        noise = counter_rng.draw(keys, 0, total)
        noise = counter_rng.below(noise, _RESOLUTION) / _RESOLUTION
        noise = ops.reshape(noise, (-1, population_size, self.count, per_pixel))
        place, size, angle = ops.split(
            noise, (len(self.axes), len(self.axes) + self.channels), axis=-1
        )
        # The Box-Muller transform makes a normal number from two uniform ones. `size` is below 1,
        # so that the logarithm is finite.
        normal = ops.sqrt(-2.0 * ops.log(1.0 - size)) * ops.cos(2.0 * np.pi * angle)
        genes = ops.concatenate([place, 0.5 + 0.5 * normal], axis=-1)
        genes = ops.reshape(genes, (-1, population_size, genes.shape[-1] * self.count))
        return self.wrapped(ops.transpose(genes, (1, 0, 2)))

    def wrapped(self, genes):
        """Returns genes with positions wrapped into the image and colors clipped to the box."""
        is_place = [True] * len(self.axes) + [False] * self.channels
        is_place = np.tile(is_place, self.count)
        return ops.where(is_place, ops.mod(genes, 1.0), ops.clip(genes, 0.0, 1.0))

    def image(self, genes):
        """Returns the examples, each changed by one member, from genes `(batch_size, genes)`."""
        genes = ops.reshape(genes, (-1, self.count, len(self.axes) + self.channels))
        x_adv = self.x
        for number in range(self.count):
            pixel = genes[:, number]
            here = ops.logical_and(self._mask(pixel), self._is_allowed(number))
            x_adv = ops.where(here, self._colour(pixel), x_adv)
        return x_adv

    def _is_allowed(self, number):
        return ops.reshape(self.allowed > number, (-1,) + (1,) * (len(self.x.shape) - 1))

    def _mask(self, pixel):
        """Returns a bool mask of the pixel, with the shape of `x` and one channel."""
        positions = 1
        index = 0.0
        for axis, size in enumerate(self.axes):
            place = ops.minimum(ops.floor(pixel[:, axis] * size), size - 1.0)
            index = index * size + place
            positions = positions * size
        mask = ops.one_hot(ops.cast(index, "int32"), positions, dtype="bool")
        shape = self.x.shape[1:] if len(self.x.shape) <= 2 else (*self.axes, 1)
        return ops.reshape(mask, (-1, *shape))

    def _colour(self, pixel):
        low, high = (np.asarray(bound, "float32") for bound in self.threat_model.bounds)
        share = pixel[:, len(self.axes) :]
        # Examples that are single numbers have no axis of channels.
        channels = (self.channels,) * (len(self.x.shape) > 1)
        share = ops.reshape(share, (-1,) + (1,) * (len(self.x.shape) - 2) + channels)
        return self.threat_model.clip(low + share * (high - low))


def pixel_cost(x, threat_model):
    """Returns how many of the `epsilon` changes of an `L0` one pixel takes, an int."""
    return 1 if threat_model.per_pixel or len(x.shape) <= 2 else x.shape[-1]
