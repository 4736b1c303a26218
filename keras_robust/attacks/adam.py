"""The moments of Adam, for attacks whose steps they scale."""

import typing

from keras import ops

# The defaults of the paper (Kingma and Ba, 2015).
_DECAY, _SQUARE_DECAY, _GUARD = 0.9, 0.999, 1e-8


class Adam(typing.NamedTuple):
    """Exponential means of gradients and of their squares, and how many gradients they hold."""

    mean: object
    square: object
    count: object

    @classmethod
    def empty(cls, x):
        """Returns the moments before the first gradient, which has the shape of `x`."""
        return cls(ops.zeros_like(x), ops.zeros_like(x), ops.zeros((), "float32"))

    def add(self, gradient):
        """Returns the moments with one more gradient."""
        return Adam(
            _DECAY * self.mean + (1.0 - _DECAY) * gradient,
            _SQUARE_DECAY * self.square + (1.0 - _SQUARE_DECAY) * ops.square(gradient),
            self.count + 1.0,
        )

    def direction_and_size(self):
        """Returns the mean and the root of the mean square, without bias: a step is their ratio."""
        mean = self.mean / (1.0 - ops.power(_DECAY, self.count))
        square = self.square / (1.0 - ops.power(_SQUARE_DECAY, self.count))
        # A gradient of zeros moves nothing.
        return mean, ops.sqrt(square) + _GUARD
