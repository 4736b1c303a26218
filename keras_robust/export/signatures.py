"""Signatures of a SavedModel: the functions that a server calls."""

import collections

import numpy as np
import tensorflow as tf

# A SavedModel holds a TensorFlow graph on every backend.
from keras_robust.backend.tensorflow import ops as graph
from keras_robust.export.archive import ExportArchive
from keras_robust.export.certify import certify_signature
from keras_robust.export.image_bytes import decode_images
from keras_robust.export.prediction_function import is_random
from keras_robust.export.prediction_function import seed_of_the_system

Signature = collections.namedtuple("Signature", "function specs")
_NOT_FINITE = "Expected finite logits. Received: an example with NaN or infinite logits"
Signature.__doc__ = "A function from tensors to a dict of tensors, and the specs of its inputs."


def make_signatures(served, label_names, max_samples=100_000, archive=None):
    """Returns a dict of `Signature` by name.

    Every model has `serving_default` and `logits`. A model has `predict_bytes` if its one input is
    an image of a fixed size with 1, 3 or 4 channels and a known scale. A `RandomizedSmoothing` has
    `certify`. Logits that are not finite raise an error.

    Args:
        served: `ServedModel`.
        label_names: list of str, or `None`.
        max_samples: int, the most noisy copies that a request to `certify` may ask for.
        archive: `ExportArchive` of the model. Defaults to `None`, a new one.
    """
    archive = archive or ExportArchive(served.model)
    specs = served.inputs.specs
    finite = _finite_outputs(served, archive)

    def answer(tensors):
        logits, probabilities = finite(tensors)
        label = tf.argmax(logits, axis=-1)
        outputs = {"probabilities": probabilities, "label": label}
        if label_names is not None:
            outputs["label_name"] = tf.gather(tf.constant(list(label_names)), label)
        return outputs

    found = {
        "serving_default": Signature(lambda *tensors: answer(tensors), specs),
        "logits": Signature(lambda *tensors: {"logits": finite(tensors)[0]}, specs),
    }
    to_input = _picture_reader(served, archive) if takes_pictures(served.inputs) else None
    if to_input is not None:
        shape = tuple(specs[0].shape[1:])
        found["predict_bytes"] = Signature(
            lambda image_bytes: answer([to_input(decode_images(image_bytes, shape))]),
            [tf.TensorSpec((None,), tf.string, name="image_bytes")],
        )
    certify = certify_signature(served, max_samples, archive)
    if certify is not None:
        found["certify"] = Signature(*certify)
    return found


def _finite_outputs(served, archive):
    """Returns a function from input tensors to `(logits, probabilities)` that are finite."""
    predict = served.prediction_function()
    # JAX cannot draw a fresh seed inside a graph, so TensorFlow draws it where the graph runs.
    draws = is_random(served.model)
    in_graph = archive.in_graph(lambda *given: predict(given[draws:], given[0] if draws else None))

    def finite(tensors):
        logits, probabilities = in_graph(*([seed_of_the_system()] if draws else []), *tensors)
        # argmax of NaN returns class 0, so reject it.
        is_finite = tf.math.is_finite(logits)
        return graph.require_all(is_finite, _NOT_FINITE, logits), probabilities

    return finite


def takes_pictures(inputs):
    """Returns whether the only input is an image of a fixed size that a PNG file can hold."""
    shape = inputs.specs[0].shape
    is_image = len(inputs.specs) == 1 and shape.rank == 4 and None not in shape[1:]
    return is_image and shape[-1] in (1, 3, 4) and not inputs.specs[0].dtype == tf.string


def _picture_reader(served, archive):
    """Returns a function from uint8 pictures to the input, or `None` if its scale is unknown."""
    dtype, guard = served.inputs.specs[0].dtype, served.scale_guard
    if not dtype.is_floating:
        return lambda pictures: tf.cast(pictures, dtype)
    if guard is None or guard.bounds is None:
        return None
    low, high = (np.asarray(bound) for bound in guard.bounds)
    # This guard does not rescale, so pixels from 0 to 255 must lie in its bounds.
    if guard.integers == "cast" and not (np.all(low <= 0.0) and np.all(high >= 255.0)):
        return None
    to_float = archive.in_graph(guard.to_float)
    return lambda pictures: tf.cast(to_float(pictures), dtype)
