"""The moves of the Square attack in `Linf`: windows at the bounds of the ball."""

from keras import ops

from keras_robust.attacks.score_based.square_windows import Windows
from keras_robust.backend import counter_rng


class SignMoves:
    """Sets every pixel of a window to its largest or smallest value, with one sign per channel.

    Args:
        x: float tensor `(batch_size, ...)`, the examples.
        threat_model: a `Linf`.
        keys: uint32 tensor `(batch_size,)`, from `counter_rng.make_keys`.
        shape: `(height, width, channels)`, the shape to which examples are reshaped.
        p_init: float, the share of the image that the first windows cover.
    """

    def __init__(self, x, threat_model, keys, shape, p_init):
        self.shape, self.keys = shape, keys
        self.windows = Windows(*shape[:2], p_init)
        # The corners are projected once; any mixture of their pixels is feasible, too.
        self.low, self.high = (
            ops.reshape(threat_model.project(x + sign * threat_model.radius, x), (-1, *shape))
            for sign in (-1.0, 1.0)
        )

    def start(self):
        """Returns vertical stripes, one random sign per column and channel, as images."""
        _, width, channels = self.shape
        bits = ops.reshape(
            counter_rng.draw(self.keys, 0, width * channels), (-1, 1, width, channels)
        )
        return ops.where(counter_rng.is_heads(bits), self.high, self.low)

    def propose(self, x_adv, query, stage):
        """Returns images that differ from `x_adv` in one window each."""
        bits = counter_rng.draw(self.keys, query, 2 + self.shape[2])
        mask = self.windows.mask(self.windows.place(bits[:, :2], stage), stage)
        is_high = counter_rng.is_heads(bits[:, None, None, 2:])
        return ops.where(mask, ops.where(is_high, self.high, self.low), x_adv)
