"""The initializer under which boxes keep their width from layer to layer."""

import math

import keras


@keras.saving.register_keras_serializable(package="keras_robust")
class IBPNormal(keras.initializers.RandomNormal):
    """Normal weights under which boxes neither grow nor vanish: for training on interval bounds.

    `W ~ N(0, 2 pi / n^2)` for `n` inputs of a unit, `fan_in`. An affine layer multiplies the width
    of a box by `n E|W| = 2`, and a ReLU halves it, in expectation. Under `HeNormal` and
    `GlorotUniform`, the width grows with `sqrt(n)` at every layer, so that training for a
    certificate starts from bounds that say nothing. Use it for all Dense and Conv layers of a
    network that the objectives `IBP`, `MTLIBP` or `SABR` train. Biases start at 0, as in Keras.

    Weights are smaller than those for plain training, by a factor of `sqrt(pi / n)` compared to
    `HeNormal`, so that the logits start near 0. BatchNormalization after each affine layer restores
    the size of the values.

    Deviations from the authors' code: none.

    Args:
        seed: int or `keras.random.SeedGenerator`, or `None` for a random one. Defaults to `None`.

    Example:

    >>> import keras_robust as kr
    >>> kernel = kr.initializers.IBPNormal(seed=0)((3, 3, 64, 64))
    >>> print(f"{float(keras.ops.sum(keras.ops.abs(kernel))) / 64:.1f}")
    2.0

    References:
        - [Shi et al., 2021](https://arxiv.org/abs/2103.17268)
    """

    def __init__(self, seed=None):
        super().__init__(mean=0.0, stddev=1.0, seed=seed)

    def __call__(self, shape, dtype=None):
        # The last axis of a kernel is its units.
        fan_in = max(1, math.prod(shape[:-1]))
        return math.sqrt(2.0 * math.pi) / fan_in * super().__call__(shape, dtype)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}
