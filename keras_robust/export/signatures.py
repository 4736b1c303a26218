"""The functions of a SavedModel: what each takes and returns."""

import collections

import numpy as np
import tensorflow as tf

# The graph is TensorFlow's on every backend.
from keras_robust.backend.tensorflow import ops as graph
from keras_robust.export.archive import ExportArchive
from keras_robust.export.certify import certify_signature
from keras_robust.export.guards import scale_of
from keras_robust.export.image_bytes import decode_images
from keras_robust.export.prediction_function import PredictionFunction
from keras_robust.export.prediction_function import is_random
from keras_robust.export.prediction_function import seed_of_the_system

Signature = collections.namedtuple("Signature", "function specs")
_NOT_FINITE = "Expected finite logits. Received: an example for which the model gives others"
Signature.__doc__ = (
    "A function of tensors that returns a dict of them, and the specs of its inputs."
)


def make_signatures(model, inputs, guards, label_names, max_samples=100_000, archive=None):
    """Returns a dict of `Signature` by name.

    `serving_default` and `logits` always; `predict_bytes` if the model has one input and that is an
    image of a fixed size with 1, 3 or 4 channels of which the scale is known; `certify` for a
    `RandomizedSmoothing`. Logits that are not finite are an error.

    Args:
        model: built classifier.
        inputs: `Inputs` of the model.
        guards: list of `InputGuard` or `None`, one for each input.
        label_names: list of str, or `None`.
        max_samples: int, the most noisy copies in a request to `certify`.
        archive: `backend.Archive` of the model, or `None` for a new one.
    """
    archive = archive or ExportArchive(model)
    answers = PredictionFunction(model, pack=inputs.pack)

    def guarded(tensors):
        pairs = zip(tensors, guards, strict=True)
        return [x if guard is None else guard(x) for x, guard in pairs]

    # Drawn where the graph runs: JAX has no noise of the system.
    draws = is_random(model)
    in_graph = archive.in_graph(
        lambda *given: answers(guarded(given[draws:]), given[0] if draws else None)
    )

    def finite(tensors):
        logits, probabilities = in_graph(*([seed_of_the_system()] if draws else []), *tensors)
        # Of NaN, `argmax` makes the first class.
        is_finite = tf.math.is_finite(logits)
        return graph.require_all(is_finite, _NOT_FINITE, logits), probabilities

    def answer(tensors):
        logits, probabilities = finite(tensors)
        label = tf.argmax(logits, axis=-1)
        outputs = {"probabilities": probabilities, "label": label}
        if label_names is not None:
            outputs["label_name"] = tf.gather(tf.constant(list(label_names)), label)
        return outputs

    found = {
        "serving_default": Signature(lambda *tensors: answer(tensors), inputs.specs),
        "logits": Signature(lambda *tensors: {"logits": finite(tensors)[0]}, inputs.specs),
    }
    to_input = None
    if takes_pictures(inputs):
        to_input = _picture_reader(model, inputs.specs[0], guards[0], archive)
    if to_input is not None:
        shape = tuple(inputs.specs[0].shape[1:])
        found["predict_bytes"] = Signature(
            lambda image_bytes: answer([to_input(decode_images(image_bytes, shape))]),
            [tf.TensorSpec((None,), tf.string, name="image_bytes")],
        )
    certify = certify_signature(model, inputs.specs, guarded, max_samples, archive)
    if certify is not None:
        found["certify"] = Signature(*certify)
    return found


def takes_pictures(inputs):
    """Whether the model has one input that is an image of a fixed size, such as PNG can hold."""
    shape = inputs.specs[0].shape
    is_image = len(inputs.specs) == 1 and shape.rank == 4 and None not in shape[1:]
    return is_image and shape[-1] in (1, 3, 4) and not inputs.specs[0].dtype == tf.string


def _picture_reader(model, spec, guard, archive):
    """Returns a function from uint8 to what the input takes, or `None` where nobody knows that."""
    if not spec.dtype.is_floating:
        return lambda pictures: tf.cast(pictures, spec.dtype)
    guard = scale_of(model, spec, guard)
    if guard is None or guard.bounds is None:
        return None
    low, high = (np.asarray(bound) for bound in guard.bounds)
    if guard.integers == "cast" and not (np.all(low <= 0.0) and np.all(high >= 255.0)):
        return None
    to_float = archive.in_graph(guard.to_float)
    return lambda pictures: tf.cast(to_float(pictures), spec.dtype)
