"""Decoding of PNG and JPEG files in a TensorFlow graph."""

import tensorflow as tf

# A SavedModel holds a TensorFlow graph on every backend.
from keras_robust.backend.tensorflow import ops as graph

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# The most pixels in a batch, because a file of a few bytes can decode to gigabytes.
_MAX_PIXELS = 4096 * 4096


def decode_images(image_bytes, shape):
    """Returns the images in PNG and JPEG files, resized to one shape.

    Args:
        image_bytes: string tensor `(batch_size,)`, whole files.
        shape: tuple `(height, width, channels)` with 1 channel for gray, 3 for RGB, 4 for RGBA.

    Returns:
        uint8 tensor `(batch_size, *shape)`. A triangle filter resizes images of another size.

    Raises:
        tensorflow.errors.InvalidArgumentError: for a file that is not PNG or JPEG, is truncated or
            damaged, and for more than 4096 x 4096 pixels in all files together. Each file counts
            with at least the pixels of `shape`.
    """
    # Count before decoding. Resizing makes even a tiny file take the memory of `shape`.
    pixels = tf.map_fn(
        lambda file: tf.maximum(_num_pixels(file), float(shape[0] * shape[1])),
        image_bytes,
        fn_output_signature=tf.TensorSpec((), tf.float64),
    )
    image_bytes = graph.require_all(
        tf.reduce_sum(pixels) <= _MAX_PIXELS,
        f"Expected at most {_MAX_PIXELS} pixels in all files of a request",
        image_bytes,
    )
    return tf.map_fn(
        lambda file: _decode(file, shape),
        image_bytes,
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
    )


def _num_pixels(file):
    """Returns the number of pixels that the header of a file states, float64 against overflow."""
    is_png = tf.strings.substr(file, 0, len(_PNG)) == _PNG
    is_jpeg = tf.strings.substr(file, 0, len(_JPEG)) == _JPEG
    message = "Expected the bytes of a PNG or JPEG file"
    file = graph.require_all([tf.logical_or(is_png, is_jpeg)], message, file)
    size = tf.cond(is_png, lambda: _png_size(file), lambda: _jpeg_size(file))
    return tf.reduce_prod(tf.cast(size, tf.float64))


def _decode(file, shape):
    # With `expand_animations=True` the number of axes would depend on the file.
    image = tf.io.decode_image(file, channels=shape[-1], expand_animations=False)
    image = tf.ensure_shape(image, (None, None, shape[-1]))
    fits = tf.reduce_all(tf.shape(image)[:2] == shape[:2])
    return tf.ensure_shape(tf.cond(fits, lambda: image, lambda: _resize(image, shape)), shape)


def _png_size(file):
    """Returns width and height from the first chunk of a PNG, which has a fixed position."""
    # A file that is too short is padded here; decoding it raises the error.
    header = tf.io.decode_raw(tf.strings.substr(file, 16, 8), tf.uint8, fixed_length=8)
    digits = tf.reshape(tf.cast(header, tf.int64), (2, 4))
    return tf.reduce_sum(digits * [1 << 24, 1 << 16, 1 << 8, 1], axis=-1)


def _jpeg_size(file):
    return tf.cast(tf.image.extract_jpeg_shape(file)[:2], tf.int64)


def _resize(image, shape):
    resized = tf.image.resize(tf.cast(image, tf.float32), shape[:2], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)
