"""Corrupted copies of images, the same for every batch size and subset."""

import math

import numpy as np

from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_seed
from keras_robust.attacks.data import check_examples
from keras_robust.calls import with_argument_advice
from keras_robust.configurable import short_repr
from keras_robust.evaluation.corruption import blur
from keras_robust.evaluation.corruption import digital
from keras_robust.evaluation.corruption import noise
from keras_robust.evaluation.corruption import weather
from keras_robust.evaluation.corruption.severities import NUM_SEVERITIES
from keras_robust.evaluation.corruption.severities import arguments_of
from keras_robust.evaluation.corruption.severities import nearest_size
from keras_robust.threat_models import Linf
from keras_robust.threat_models.parsing import parse_bounds

# In the order of the paper. The place of a kind is a part of the seed of its random numbers.
_FUNCTIONS = (
    noise.gaussian_noise,
    noise.shot_noise,
    noise.impulse_noise,
    blur.defocus_blur,
    blur.glass_blur,
    blur.motion_blur,
    blur.zoom_blur,
    weather.snow,
    weather.frost,
    weather.fog,
    weather.brightness,
    digital.contrast,
    digital.elastic_transform,
    digital.pixelate,
    digital.jpeg_compression,
)
KINDS = tuple(function.__name__ for function in _FUNCTIONS)
SEVERITIES = tuple(range(1, NUM_SEVERITIES + 1))
_SMALLEST = 8


@with_argument_advice
def corrupt(x, kind, severity, *, bounds=(0.0, 1.0), seed=0, first_row=0):
    """Returns corrupted copies of images, as `evaluation.corruptions` shows them to a model.

    The random numbers of an image depend on `seed`, its row in the data, the kind and the severity
    alone, so the copies have the same bits in every batch, with the same version of NumPy.

    Args:
        x: images `(n, height, width, channels)` within the bounds, with 1 or 3 channels and at
            least 8 pixels on each side.
        kind: str, one of the 15 kinds, such as `"fog"`.
        severity: int from 1 to 5.
        bounds: pair of numbers, the values of black and white. Defaults to `(0.0, 1.0)`.
        seed: int. Defaults to `0`.
        first_row: int, the row of `x[0]` in the data. Defaults to `0`.

    Returns:
        Float32 array like `x`, within the bounds.

    Raises:
        ValueError: for unknown kinds and severities, and for inputs that are not such images.
        ImportError: for `"pixelate"` and `"jpeg_compression"` without Pillow, which the extra
            `corruptions` installs.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x = np.linspace(0.0, 1.0, 64).reshape(1, 8, 8, 1)
    >>> y = kr.evaluation.corrupt(x, "contrast", 5)
    >>> print(f"{y.min():.3f} {y.max():.3f}")
    0.425 0.575
    """
    check_choice("kind", kind, KINDS)
    if not isinstance(severity, int) or severity not in SEVERITIES or severity is True:
        raise ValueError(
            f"Argument `severity` must be an int from 1 to 5. Received: severity={severity!r}"
        )
    check_seed(seed)
    x, (low, high) = check_images(x, bounds), check_bounds(bounds)
    # NumPy takes no negative seeds.
    rng_key = seed % 2**32, KINDS.index(kind), severity
    function = _FUNCTIONS[KINDS.index(kind)]
    arguments = arguments_of(kind, severity, nearest_size(*x.shape[1:3]))
    # In float64, so that bounds such as (0, 255) round as little as (0, 1).
    units = (x.astype("float64") - low) / (high - low)
    changed = [
        function(unit, np.random.default_rng([*rng_key, row]), *arguments)
        for row, unit in enumerate(units, start=first_row)
    ]
    # Rounding to float32 may lead out of the bounds, so that they come last.
    values = low + (high - low) * np.clip(changed, 0.0, 1.0)
    return np.clip(values.astype("float32"), low, high)


def check_bounds(bounds):
    """Returns the bounds as a pair of numbers, or raises ValueError."""
    bounds = parse_bounds(bounds)
    if bounds is None or not all(isinstance(one, float) and math.isfinite(one) for one in bounds):
        raise ValueError(
            "Argument `bounds` must be a pair of finite numbers, the values of black and white. "
            f"Received: bounds={short_repr(bounds)}"
        )
    return bounds


def check_images(x, bounds):
    """Returns images as a float32 array within the bounds, or raises ValueError."""
    threat_model = Linf(0.0, check_bounds(bounds))
    x, _ = check_examples(x, None, threat_model, "the argument `bounds`")
    if np.ndim(x) != 4 or x.shape[-1] not in (1, 3) or min(x.shape[1:3]) < _SMALLEST:
        raise ValueError(
            "Expected images (n, height, width, channels) with 1 or 3 channels and at least "
            f"{_SMALLEST} pixels on each side: `x[..., None]` adds a channel. "
            f"Received: x of shape {np.shape(x)}"
        )
    return x
