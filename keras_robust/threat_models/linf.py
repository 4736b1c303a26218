"""The `Linf` threat model: every coordinate changes by at most epsilon."""

import math

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.configurable import short_repr
from keras_robust.threat_models.hyperplane_step import hyperplane_step
from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example


@keras.saving.register_keras_serializable(package="keras_robust")
class Linf(ThreatModel):
    """Perturbations whose largest absolute change is at most `epsilon`.

    `max_i |x_adv_i - x_i| <= epsilon`. This is the threat model of Goodfellow (2015) and Madry
    (2018), and the usual one for images. The projection consists of two clips, and the steepest
    ascent direction is `sign(gradient)`. Deviations from the papers: none.

    Args:
        epsilon: radius, in the units of the input. A number, a string such as `"8/255"`, an array
            that broadcasts against a batch (`(channels,)` for one value per channel,
            `(n, 1, 1, 1)` for one per example), or a `LearningRateSchedule`. Defaults to
            `"8/255"`.
        bounds: pair `(low, high)` of valid inputs, numbers or per-channel arrays, or `None`.
            Defaults to `(0.0, 1.0)`.

    Raises:
        ValueError: if `epsilon` is negative, or as large as the box, where every image is feasible.
            The usual reason is a radius in gray levels (`8`) instead of a fraction (`"8/255"`).

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> linf = kr.threat_models.Linf(0.1)
    >>> x_adv = linf.project(np.array([[0.5, 0.95]], "float32"), np.array([[0.3, 1.0]], "float32"))
    >>> print(np.round(x_adv, 2))
    [[0.4  0.95]]

    References:
        - [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6572)
        - [Madry et al., 2018](https://arxiv.org/abs/1706.06083)
    """

    order = math.inf

    def __init__(self, epsilon="8/255", bounds=(0.0, 1.0)):
        super().__init__(epsilon, bounds)
        if self.bounds is not None and isinstance(self.epsilon, (float, np.ndarray)):
            width = np.subtract(self.bounds[1], self.bounds[0])
            # Features with equal bounds never change, whatever the radius.
            if np.any((width > 0.0) & (np.asarray(self.epsilon) >= width)):
                raise ValueError(
                    "Argument `epsilon` is as large as the box of valid inputs, so that every "
                    "input is feasible. Give `epsilon` in the units of `bounds`, such as "
                    f"epsilon='8/255' for (0, 1). Received: epsilon={short_repr(epsilon)}, "
                    f"bounds={short_repr(bounds)}"
                )

    def project(self, x_adv, x):
        return self.clip(ops.clip(x_adv, x - self.radius, x + self.radius))

    def steepest_direction(self, gradient):
        return ops.sign(gradient)

    def linear_maximization_oracle(self, direction, x):
        return self.project(x + self.radius * ops.sign(direction), x)

    def random_start(self, x, seed):
        noise = backend.uniform(ops.shape(x), seed, minval=-1.0, maxval=1.0)
        return self.project(x + self.radius * noise, x)

    def random_start_on_sphere(self, x, seed):
        noise = backend.uniform(ops.shape(x), seed, minval=-1.0, maxval=1.0)
        largest = ops.max(flatten(ops.abs(noise)), axis=-1)
        return self.project(x + self.radius * noise / per_example(largest, x), x)

    def project_onto_hyperplane(self, x, gradient, change):
        room = self._headroom(x, gradient * per_example(ops.sign(change), x))
        return hyperplane_step(x, gradient, change, room, ops.ones_like(x))

    def relative_step(self, share, x):
        return per_example(share, x) * self.radius

    def with_radii(self, radii, x):
        return self.with_epsilon(per_example(radii, x))

    def distance(self, x_adv, x):
        return ops.max(flatten(ops.abs(x_adv - x)), axis=-1)

    def check_shape(self, shape):
        given = getattr(self.epsilon, "shape", ())
        sizes = zip(reversed(given), reversed(shape), strict=False)
        if len(given) > len(shape) or any(own not in (1, size) for own, size in sizes):
            raise ValueError(
                "Argument `epsilon` must broadcast against the inputs: (channels,) for one value "
                "per channel or feature, (n, 1, 1, 1) for one per example. "
                f"Received: epsilon of shape {given} for inputs of shape {shape}"
            )

    def epsilon_for_rows(self, rows, x):
        radius = ops.convert_to_numpy(self.radius)
        # `(channels,)` broadcasts against every row. Only an array with an axis for the examples is
        # indexed.
        if radius.ndim == x.ndim and len(radius) == len(x):
            return radius[rows]
        # With as many axes as `x` the radius cannot be mistaken for one value per example.
        axes = range(x.ndim - radius.ndim) if radius.ndim else ()
        return np.expand_dims(radius, tuple(axes))

    def _in_ball(self, x_adv, x, slack, rounding):
        allowed = self.radius + slack + rounding
        return ops.all(flatten(ops.abs(x_adv - x) <= allowed), axis=-1)
