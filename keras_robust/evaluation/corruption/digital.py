"""Digital artifacts: contrast, elastic distortion, pixels, and compression."""

import importlib
import io

import numpy as np
import scipy.ndimage

from keras_robust.evaluation.corruption.filters import sample


def contrast(x, rng, factor):
    """Returns `(x - m) factor + m`, with the mean `m` of each channel."""
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * factor + mean


def elastic_transform(x, rng, strength, smoothness, jitter):
    """Returns the image after a random affine map and random smooth displacements.

    Args:
        x: float array `(height, width, channels)`.
        rng: `np.random.Generator`.
        strength: number, the size of the displacements before they are smoothed.
        smoothness: number, the standard deviation of the Gaussian that smooths them.
        jitter: number, how far the affine map moves each of three points. As the two others, in
            units of the shorter side.
    """
    height, width = x.shape[:2]
    side = min(height, width)
    points = np.array([width, height]) // 2 + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + rng.uniform(-jitter * side, jitter * side, points.shape)
    # The map from the moved points back, because each pixel asks where it comes from.
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)
    rows, columns = np.mgrid[:height, :width]
    sources = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back
    x = sample(x, sources[..., 1], sources[..., 0], "mirror")
    # SciPy would cut the Gaussian off at 4 standard deviations, the authors do at 3.
    across, down = (
        strength
        * side
        * scipy.ndimage.gaussian_filter(
            rng.uniform(-1.0, 1.0, rows.shape), smoothness * side, truncate=3.0
        )
        for _ in range(2)
    )
    return sample(x, rows + down, columns + across, "reflect")


def pixelate(x, rng, share):
    """Returns the image after resizing to a share of its sides and back, with a box filter."""
    pillow, (height, width) = load_pillow(), x.shape[:2]
    small = max(int(width * share), 1), max(int(height * share), 1)
    box = pillow.Resampling.BOX
    image = pillow.fromarray(_levels(x)).resize(small, box).resize((width, height), box)
    return _values(image, x.shape)


def jpeg_compression(x, rng, quality):
    """Returns the image after compression to a JPEG of a quality from 1 to 100."""
    # Pillow halves the resolution of color, as most files have it.
    pillow, file = load_pillow(), io.BytesIO()
    pillow.fromarray(_levels(x)).save(file, "JPEG", quality=quality)
    return _values(pillow.open(file), x.shape)


def load_pillow():
    """Returns the module `PIL.Image`, or raises an ImportError that names the package."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ImportError(
            "The corruptions pixelate and jpeg_compression need Pillow. Install it with: "
            "pip install 'keras_robust[corruptions]'"
        ) from error


def _levels(x):
    """Returns an image of 8 bits, as Pillow takes it: a single channel has no axis."""
    # Rounded, where the authors' images have 8 bits from the start.
    levels = np.rint(255.0 * x).astype("uint8")
    return levels[..., 0] if x.shape[-1] == 1 else levels


def _values(image, shape):
    return np.asarray(image, "float64").reshape(shape) / 255.0
