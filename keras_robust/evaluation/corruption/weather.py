"""Weather: snow, frost, fog, and the brightness of the day."""

import numpy as np

from keras_robust.evaluation.corruption.filters import convolve
from keras_robust.evaluation.corruption.filters import motion_kernel
from keras_robust.evaluation.corruption.filters import zoom
from keras_robust.evaluation.corruption.textures import frost_texture
from keras_robust.evaluation.corruption.textures import plasma

_LUMA = (0.299, 0.587, 0.114)


def snow(x, rng, flake, fall, kept):
    """Returns the image, whitened, with flakes that fall in two directions.

    Args:
        x: float array `(height, width, channels)`.
        rng: `np.random.Generator`.
        flake: `(mean, stddev, size, threshold)`: the normal distribution of the noise that becomes
            flakes, the factor that enlarges them, and the value below which there is none.
        fall: `(radius, stddev)`, the motion blur of the flakes, as for `motion_kernel`.
        kept: number from 0 to 1, the share of the image that is not whitened.
    """
    mean, stddev, size, threshold = flake
    # Noise that is enlarged has flakes of several pixels.
    flakes = zoom(rng.normal(mean, stddev, (*x.shape[:2], 1)), size)
    flakes = np.clip(np.where(flakes < threshold, 0.0, flakes), 0.0, 1.0)
    flakes = convolve(flakes, motion_kernel(*fall, rng.uniform(-135.0, -45.0)), "edge")
    # Dark parts become brighter than their color, as under a snowy sky.
    white = np.maximum(x, 1.5 * _gray(x) + 0.5)
    return kept * x + (1.0 - kept) * white + flakes + np.rot90(flakes, 2)


def frost(x, rng, kept, amount):
    """Returns `kept x + amount t`, with a texture `t` of ice."""
    ice = frost_texture(x.shape[:2], rng)
    return kept * x + amount * (ice if x.shape[-1] == 3 else _gray(ice))


def fog(x, rng, amount, decay):
    """Returns `(x + amount t) max(x) / (max(x) + amount)`, with a cloud `t`."""
    # Fog hides contrast without making the image brighter.
    brightest = x.max()
    cloud = plasma(x.shape[:2], decay, rng)[..., None]
    return (x + amount * cloud) * brightest / (brightest + amount)


def brightness(x, rng, amount):
    """Returns the image with `amount` added to the value V of HSV."""
    value = x.max(axis=-1, keepdims=True)
    raised = np.minimum(value + amount, 1.0)
    # With hue and saturation kept, the channels are proportional to the value.
    return np.where(value > 0.0, x * raised / np.where(value > 0.0, value, 1.0), raised)


def _gray(x):
    """Returns the luminance, `(height, width, 1)`."""
    return x if x.shape[-1] == 1 else (x @ np.array(_LUMA))[..., None]
