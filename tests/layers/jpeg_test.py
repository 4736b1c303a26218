import io

import keras
import numpy as np
import pytest

from keras_robust import layers
from tests.support import gradients
from tests.support import refusals

PIL = pytest.importorskip("PIL.Image")


def image(kind, height, width, channels):
    """Returns uint8 noise, or blots a few pixels wide."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 256, size=(height, width, channels)).astype("uint8")
    coarse = rng.uniform(0, 255, size=(height // 4 + 2, width // 4 + 2, channels)).astype("uint8")
    planes = [
        PIL.fromarray(coarse[..., i]).resize((width, height), PIL.Resampling.BICUBIC)
        for i in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def pillow(x, quality, subsampling):
    """Returns a uint8 image after compression by the libjpeg of Pillow."""
    file = io.BytesIO()
    flat = x[..., 0] if x.shape[-1] == 1 else x
    PIL.fromarray(flat).save(
        file, "JPEG", quality=quality, subsampling="4:2:0" if subsampling else "4:4:4"
    )
    with PIL.open(file) as decoded:
        return np.asarray(decoded).reshape(x.shape).astype("float64")


@pytest.mark.parametrize("kind", ["blots", "noise"])
@pytest.mark.parametrize("quality", [10, 75, 100])
@pytest.mark.parametrize(
    ("shape", "subsampling"),
    [
        ((28, 28, 1), True),
        ((32, 32, 3), True),
        ((32, 32, 3), False),
        ((30, 21, 3), True),
        ((17, 33, 3), False),
    ],
)
def test_pixels_are_those_of_libjpeg(shape, subsampling, quality, kind):
    x = image(kind, *shape)
    layer = layers.JPEG(quality, chroma_subsampling=subsampling)
    found = 255.0 * np.asarray(layer(x[None] / np.float32(255.0)))[0]
    expected = pillow(x, quality, subsampling)
    distance = np.abs(found - expected)
    # The arithmetic of libjpeg is in integers: single levels differ, and a coefficient that lies
    # between two steps changes its block.
    assert distance.mean() < 1.5
    assert np.quantile(distance, 0.75) <= 1.5
    if quality < 100:
        assert distance.mean() < 0.15 * np.abs(expected - x).mean()


def test_one_block_by_hand():
    """A flat block has one coefficient, 8 (v - 128); at quality 50 its step is 16, or 2 levels."""
    x = np.full((1, 8, 8, 1), 101.0 / 255.0, "float32")
    found = 255.0 * layers.JPEG(50)(x)
    np.testing.assert_allclose(found, np.full(x.shape, 100.0), atol=1e-3)


def test_the_gradient_is_the_identity_without_subsampling():
    x = keras.ops.convert_to_tensor(image("blots", 9, 12, 3)[None] / np.float32(255.0))
    weights = np.random.default_rng(1).normal(size=x.shape).astype("float32")

    def compute(x):
        return keras.ops.sum(weights * layers.JPEG(chroma_subsampling=False)(x))

    total, slopes = gradients.of(compute, x)
    np.testing.assert_allclose(slopes, weights, atol=1e-6)


def test_the_gradient_passes_no_fine_colour_with_subsampling():
    """Alternating red and cyan columns of one luminance get no gradient; gray columns keep it."""
    x = keras.ops.convert_to_tensor(np.full((1, 16, 16, 3), 0.5, "float32"))
    turns = np.where(np.arange(16) % 2, 1.0, -1.0)[:, None].astype("float32")
    # The gradient of luminance is (0.299, 0.587, 0.114): this direction is orthogonal to it.
    colour = turns * np.array([1.0, -0.299 / 0.587, 0.0], "float32")
    for direction, expected in ((colour, 0.0), (turns * np.ones(3, "float32"), 16 * 16 * 3)):
        # The projection on this direction is the same in the forward and the backward pass.
        inner = np.zeros(x.shape, "float32")
        inner[:, 1:-1, 2:-2] = direction[2:-2]
        _, slopes = gradients.of(layers.JPEG(), x, inner)
        slope = float(np.sum(np.asarray(slopes) * np.broadcast_to(direction, x.shape)))
        share = 14 * 12 / 256
        assert slope == pytest.approx(expected * share, abs=0.02 * 256)


def test_without_bpda_there_is_no_gradient():
    x = keras.ops.convert_to_tensor(image("blots", 8, 8, 3)[None] / np.float32(255.0))

    def compute(x):
        return layers.JPEG(bpda=False)(x)

    values, slopes = gradients.of(compute, x)
    np.testing.assert_array_equal(slopes, np.zeros(x.shape))
    np.testing.assert_array_equal(values, layers.JPEG()(x))


def test_bounds():
    x = image("blots", 16, 16, 3)[None] / np.float32(255.0)
    shifted = layers.JPEG(20, bounds=(-1.0, 1.0))(2.0 * x - 1.0)
    np.testing.assert_allclose(shifted, 2.0 * layers.JPEG(20)(x) - 1.0, atol=0.02)


def test_results_stay_in_the_bounds():
    x = np.random.default_rng(0).integers(0, 2, size=(1, 16, 16, 1)).astype("float32")
    found = np.asarray(layers.JPEG(10)(x))
    assert found.min() >= 0.0 and found.max() <= 1.0


@pytest.mark.parametrize("shape", [(1, 8, 8, 2), (1, 8, 8), (4, 8)])
def test_inputs_that_are_not_images(shape):
    with refusals.assert_refused(r"with 1 or 3 channels. Received: an input of shape"):
        layers.JPEG()(np.zeros(shape, "float32"))


@pytest.mark.parametrize("quality", [0, 101, 75.0])
def test_wrong_quality(quality):
    refusals.assert_argument_refused(
        layers.JPEG, "`quality` must be a whole number from 1 to 100. Rec", quality=quality
    )
