"""The `Affine` threat model: rotated, shifted and resized images."""

import math

import keras
import numpy as np
from keras import ops

from keras_robust import models
from keras_robust.configurable import short_repr
from keras_robust.threat_models.bilinear import sample
from keras_robust.threat_models.linf import Linf
from keras_robust.threat_models.threat_model import ThreatModel

_ROTATION_VALUES, _OTHER_VALUES = 31, 5
_BATCH_SIZE = 256
_MOST = {"rotation": 180.0, "translation": math.inf, "scale": 0.99}


@keras.saving.register_keras_serializable(package="keras_robust")
class Affine(ThreatModel):
    """Rotations, translations and changes of size of an image, with bilinear interpolation.

    The attacker chooses an angle `t` up to `rotation`, shifts `d` up to `translation` along rows
    and columns, and a factor `s` from `1 - scale` to `1 + scale`. The pixel at `p`, measured from
    the center of the image, moves to `s * R(t) p + d`, where positive angles turn
    counterclockwise. The value of a pixel is the bilinear interpolation of the image at the place
    that moves there, and zero outside of the image. These parameters are the perturbation: with
    `bind` an attack gets a tensor `(n, parameters)` of zeros, each parameter as a share of its
    range, and a model that takes it. So `epsilon` is a factor for all ranges, and the `step_size`
    of an attack is a share of them. Parameters whose range is zero are left out. All zeros return
    the image bit for bit.

    The loss has many local maxima over the parameters, so that Engstrom et al. find gradients weak
    and search a grid: `GridSearch`, 31 angles and 5 shifts along each axis, 775 images. Their
    "worst of 10" is `RandomNoise(num_samples=10)`. `evaluate(..., attacks="standard")` runs the
    grid and `APGD`. In `AdvTrain`, use one of these three or `PGD`. An image does not tell the
    parameters that made it, so that `contains` checks only the box; the points of attacks are
    feasible because their parameters are projected before they are applied.

    Deviations from the paper: `scale` is an addition; the grid is uniform for every range, whereas
    theirs is in whole pixels; random draws are uniform in the ranges, as theirs. Objectives that
    make copies of the inputs, such as `MACER` and `AdversarialPool`, refuse this threat model.

    Args:
        rotation: number from 0 to 180, the largest angle in degrees. Defaults to `30.0`.
        translation: number >= 0, the largest shift along each axis, in pixels. The paper uses 10%
            of the width. Defaults to `3.0`.
        scale: number from 0 to 0.99, the largest relative change of the size. Defaults to `0.0`.
        epsilon: number from 0 to 1 or a `LearningRateSchedule`, a factor for all ranges. Defaults
            to `1.0`.
        bounds: pair `(low, high)` of valid inputs, numbers or per-channel arrays that contain 0,
            the value outside of an image; or `None`. Defaults to `(0.0, 1.0)`.

    Raises:
        ValueError: for ranges that are negative or too large, or all zero; for an `epsilon` that is
            not one number from 0 to 1; for bounds without 0. Once data are known: for inputs other
            than images `(n, rows, columns, channels)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> affine = kr.threat_models.Affine(rotation=90, translation=1)
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0]], "float32").reshape(1, 2, 2, 1)
    >>> print(np.round(affine.transform(x, [[1.0, 0.0, 0.0]])[0, :, :, 0]))
    [[2. 4.]
     [1. 3.]]

    References:
        - [Engstrom et al., 2019](https://arxiv.org/abs/1712.02779)
        - [authors' code](https://github.com/MadryLab/adversarial_spatial)
    """

    exposes_inputs = False

    def __init__(self, rotation=30.0, translation=3.0, scale=0.0, epsilon=1.0, bounds=(0.0, 1.0)):
        super().__init__(epsilon, bounds)
        self.rotation = _parse_range("rotation", rotation)
        self.translation = _parse_range("translation", translation)
        self.scale = _parse_range("scale", scale)
        # An image has rows and columns, and so two shifts.
        self._ranges = np.array(
            [self.rotation, self.translation, self.translation, self.scale], "float32"
        )
        if not self._ranges.any():
            raise ValueError(
                "Affine needs a range that is not zero. "
                f"Received: rotation={rotation!r}, translation={translation!r}, scale={scale!r}"
            )
        if not self.is_scheduled and (np.ndim(self.epsilon) or self.epsilon > 1.0):
            raise ValueError(
                "Argument `epsilon` of Affine is one factor for all ranges, at most 1. "
                f"Received: epsilon={short_repr(epsilon)}"
            )
        if bounds is not None and not (np.all(self.bounds[0] <= 0) and np.all(self.bounds[1] >= 0)):
            raise ValueError(
                "Argument `bounds` must contain 0, the value outside of an image. "
                f"Received: bounds={short_repr(bounds)}"
            )
        ranges = {"rotation": rotation, "translation": translation, "scale": scale}
        self._given = {**ranges, **self._given}

    @property
    def grid(self):
        """The numbers of values per parameter in the grid of the paper, a tuple of ints."""
        values = (_ROTATION_VALUES, *[_OTHER_VALUES] * (len(self._ranges) - 1))
        return tuple(number for number, size in zip(values, self._ranges, strict=True) if size)

    def bind(self, model, inputs):
        x, classifier = models.expose_input(model, inputs)
        self.check_shape(tuple(x.shape))
        pack = classifier.pack
        classifier.pack = lambda parameters: pack(self.transform(x, parameters))
        start = ops.repeat(ops.zeros_like(x[:, 0, 0, :1]), len(self.grid), axis=-1)
        return start, classifier, Linf(1.0, bounds=None).with_epsilon(self.epsilon)

    def pack(self, x_adv, inputs):
        x = models.only_input(inputs)
        if not isinstance(x_adv, np.ndarray):
            return keras.tree.pack_sequence_as(inputs, [self._moved(x, x_adv)])
        batches = zip(*(models.batches_of(part, _BATCH_SIZE) for part in (x, x_adv)), strict=True)
        moved = [ops.convert_to_numpy(self._moved(*batch)) for batch in batches]
        return keras.tree.pack_sequence_as(inputs, [np.concatenate(moved)])

    def _moved(self, x, parameters):
        # Rounding may leave the box. Not a part of `transform`, because clipping at the ends of the
        # box changes gradients.
        return self.clip(self.transform(x, parameters))

    def transform(self, x, parameters):
        """Returns transformed images.

        Args:
            x: tensor `(batch_size, rows, columns, channels)`.
            parameters: float tensor `(batch_size, parameters)`: rotation, shift down, shift to the
                right and scale, without those whose range is 0, as shares of their ranges, from -1
                to 1.
        """
        x, parameters = ops.cast(x, "float32"), ops.cast(parameters, "float32")
        angle, down, right, scale = self._columns(parameters)
        cosine, sine = ops.cos(angle * (math.pi / 180.0)), ops.sin(angle * (math.pi / 180.0))
        middle = [0.5 * ops.cast(length - 1, "float32") for length in ops.shape(x)[1:3]]
        index = [ops.arange(length, dtype="float32") for length in ops.shape(x)[1:3]]
        # Where each pixel of the result comes from: the inverse of the transformation.
        row = (ops.reshape(index[0] - middle[0], (1, -1, 1)) - down) / (1.0 + scale)
        column = (ops.reshape(index[1] - middle[1], (1, 1, -1)) - right) / (1.0 + scale)
        rows = cosine * row + sine * column + middle[0]
        columns = cosine * column - sine * row + middle[1]
        return sample(x, rows, columns)

    def _columns(self, parameters):
        """Returns angle, two shifts and relative change of size, each `(batch_size, 1, 1)`."""
        given = iter(range(len(self.grid)))
        zero = ops.zeros_like(parameters[:, 0])
        columns = [
            float(size) * parameters[:, next(given)] if size else zero for size in self._ranges
        ]
        return [ops.reshape(column, (-1, 1, 1)) for column in columns]

    def check_shape(self, shape):
        if len(shape) != 4:
            raise ValueError(
                "Affine transforms images, (n, rows, columns, channels). "
                f"Received: inputs of shape {shape}"
            )

    def contains(self, x_adv, x, tolerance=1e-5):
        # Every image is a transformed one as far as the ball knows.
        return self._in_box(x_adv, tolerance)


def _parse_range(name, value):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Written as `not` so that NaN is refused as well.
    if not (is_number and 0.0 <= value <= _MOST[name] and math.isfinite(value)):
        most = f" and at most {_MOST[name]:g}" if math.isfinite(_MOST[name]) else ""
        raise ValueError(
            f"Argument `{name}` must be a finite number, at least 0{most}. "
            f"Received: {name}={value!r}"
        )
    return float(value)
