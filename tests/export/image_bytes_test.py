import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.export.image_bytes import decode_images
from tests.support import refusals
from tests.support import tiers

SHAPE = (9, 12, 3)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype="uint8")
PNG = tf.io.encode_png(PICTURES[0]).numpy()
JPEG = tf.io.encode_jpeg(PICTURES[0], quality=100).numpy()


def _png_of_size(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + check


@tiers.parametrize("channels", [1, 3, 4])
def test_png(channels):
    pictures = np.random.default_rng(1).integers(0, 256, (3, 9, 12, channels), dtype="uint8")
    files = tf.constant([tf.io.encode_png(picture).numpy() for picture in pictures])
    found = tf.function(decode_images)(files, (9, 12, channels))
    assert found.dtype == tf.uint8
    np.testing.assert_array_equal(found, pictures)


def test_jpeg_is_read_as_tensorflow_reads_it():
    found = decode_images(tf.constant([JPEG]), SHAPE)
    np.testing.assert_array_equal(found[0], tf.io.decode_jpeg(JPEG, channels=3))


def test_another_size_and_number_of_channels():
    grey = np.full((20, 30, 1), 77, "uint8")
    found = decode_images(tf.constant([tf.io.encode_png(grey).numpy(), PNG]), SHAPE)
    np.testing.assert_array_equal(found[0], np.full(SHAPE, 77))
    np.testing.assert_array_equal(found[1], PICTURES[0])


def test_shrinking_averages():
    pictures = np.zeros((4, 4, 1), "uint8")
    pictures[::2, ::2] = pictures[1::2, 1::2] = 200
    found = decode_images(tf.constant([tf.io.encode_png(pictures).numpy()]), (1, 1, 1))
    assert abs(int(found[0, 0, 0, 0]) - 100) <= 15


def test_no_file_is_an_empty_batch():
    assert decode_images(tf.constant([], tf.string), SHAPE).shape == (0, *SHAPE)


@pytest.mark.parametrize("cut", [1, 5, 20, 26, 40, len(PNG) // 2, len(PNG) - 1])
def test_png_cut_off(cut):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_images(tf.constant([PNG, PNG[:cut]]), SHAPE)


@pytest.mark.parametrize("cut", [4, 40, len(JPEG) // 2, len(JPEG) - 4])
def test_jpeg_cut_off(cut):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_images(tf.constant([JPEG[:cut]]), SHAPE)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "bytes of a PNG or JPEG"),
        (b"hello", "bytes of a PNG or JPEG"),
        (b"GIF89a" + bytes(100), "bytes of a PNG or JPEG"),
        (_png_of_size(100_000, 100_000), "at most 16777216 pixels"),
        (_png_of_size(2**31 - 1, 2**31 - 1), "at most 16777216 pixels"),
        (_png_of_size(4096, 4097), "at most 16777216 pixels"),
        (_png_of_size(2**32 - 1, 2**32 - 1), "at most 16777216 pixels"),
    ],
)
def test_other_files(file, message):
    with refusals.assert_refused(message, error=tf.errors.InvalidArgumentError, times=0):
        decode_images(tf.constant([file]), SHAPE)


TOO_LARGE = "at most 16777216 pixels in all files of a request"


def test_the_pixels_of_all_files_count():
    half = _png_of_size(4096, 2049)
    with refusals.assert_refused(TOO_LARGE, error=tf.errors.InvalidArgumentError, times=0):
        decode_images(tf.constant([half, half]), SHAPE)


def test_small_files_count_with_their_resized_pixels():
    with refusals.assert_refused(TOO_LARGE, error=tf.errors.InvalidArgumentError, times=0):
        decode_images(tf.constant([PNG, PNG]), (4096, 4095, 3))
