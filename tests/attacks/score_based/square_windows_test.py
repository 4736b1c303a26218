import math
import re

import keras
import numpy as np
import pytest

from keras_robust.attacks.score_based import square_windows
from keras_robust.attacks.score_based.square_windows import Windows
from tests.support import hashing
from tests.support import refusals


@pytest.mark.parametrize(
    "shape,image",
    [
        ((), (1, 1, 1)),
        ((7,), (1, 7, 1)),
        ((5, 4), (5, 4, 1)),
        ((5, 4, 3), (5, 4, 3)),
        ((2, 5, 4, 3), (10, 4, 3)),
    ],
)
def test_every_shape_becomes_an_image(shape, image):
    assert square_windows.image_shape(shape) == image


@pytest.mark.parametrize("shape", [(None,), (None, 4, 1)])
def test_a_shape_must_be_known(shape):
    received = re.escape(str((None, *shape)))
    message = f"inputs of a fixed shape.*Received: inputs of shape {received}"
    with refusals.assert_refused(message):
        square_windows.image_shape(shape)


def test_the_schedule_of_the_authors():
    found = square_windows.stages(10001, False)
    last = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000, 10000]
    for stage, (query, after) in enumerate(zip(last, [*last[1:], None], strict=True)):
        assert found[query] == stage
        assert after is None or found[query + 1] == stage + 1
    assert square_windows.stages(5000, False)[-1] == 7


def test_a_rescaled_schedule_has_the_same_shares():
    expected = square_windows.stages(10000, False)[::20]
    np.testing.assert_array_equal(square_windows.stages(500, True), expected)


@pytest.mark.parametrize("side", [8, 28, 32])
@pytest.mark.parametrize("p_init", [0.05, 0.3, 0.8, 1.0])
def test_square_images_have_the_windows_of_the_authors(side, p_init):
    signs = Windows(side, side, p_init).sizes
    pyramids = Windows(side, side, p_init, smallest=3, odd=True).sizes
    for stage in range(10):
        length = math.sqrt(p_init / 2**stage * side * side)
        even = max(round(length), 1)
        odd = max(round(length), 3)
        odd = min(odd + (odd % 2 == 0), side)
        np.testing.assert_array_equal(signs[stage], (even, even))
        np.testing.assert_array_equal(pyramids[stage], (odd, odd))


def test_other_images_have_windows_of_the_same_area():
    assert Windows(1, 40, 0.8).sizes[:4] == [(1, 32), (1, 16), (1, 8), (1, 4)]
    assert Windows(40, 1, 0.8).sizes[:4] == [(32, 1), (16, 1), (8, 1), (4, 1)]
    assert Windows(4, 100, 0.8).sizes[:5] == [(4, 80), (4, 40), (4, 20), (4, 10), (4, 4)]
    assert Windows(2, 3, 1.0, smallest=3, odd=True).sizes[0] == (2, 3)
    assert Windows(1, 40, 0.8, smallest=3, odd=True).sizes[:2] == [(1, 33), (1, 17)]
    assert Windows(1, 2, 0.8, smallest=3, odd=True).sizes[-1] == (1, 2)


@pytest.mark.parametrize("stage", [0, 1, 4])
def test_windows_lie_where_the_bits_say(stage):
    windows = Windows(6, 5, 0.5)
    bits = np.random.default_rng(0).integers(2**32, size=(300, 2)).astype("uint32")
    edges = windows.place(keras.ops.convert_to_tensor(bits), keras.ops.convert_to_tensor(stage))
    mask = np.asarray(windows.mask(edges, keras.ops.convert_to_tensor(stage)))
    height, width = windows.sizes[stage]
    for row, one in zip(bits, mask, strict=True):
        top = hashing.below(int(row[0]), 6 - height + 1)
        left = hashing.below(int(row[1]), 5 - width + 1)
        expected = np.zeros((6, 5, 1), bool)
        expected[top : top + height, left : left + width] = True
        np.testing.assert_array_equal(one, expected)
    # Every pixel is covered by some window, including the last row and column.
    assert mask.any(axis=0).all()
