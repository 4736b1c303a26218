"""The functions of a SavedModel: what each takes and returns."""

import collections

import tensorflow as tf

from keras_robust import backend
from keras_robust.export.certify import certify_signature
from keras_robust.export.guards import guards_within
from keras_robust.export.image_bytes import decode_images

Signature = collections.namedtuple("Signature", "function specs")
Signature.__doc__ = (
    "A function of tensors that returns a dict of them, and the specs of its inputs."
)


def make_signatures(model, inputs, guards, label_names, archive=None):
    """Returns a dict of `Signature` by name.

    `serving_default` and `logits` always; `predict_bytes` if the model has one input and that is an
    image of a fixed size with 1, 3 or 4 channels; `certify` for a `RandomizedSmoothing`.

    Args:
        model: built classifier.
        inputs: `Inputs` of the model.
        guards: list of `InputGuard` or `None`, one for each input.
        label_names: list of str, or `None`.
        archive: `backend.Archive` of the model, or `None` for a new one.
    """
    archive = archive or backend.Archive(model)
    classifier = backend.Classifier(model, pack=inputs.pack)

    def guarded(tensors):
        pairs = zip(tensors, guards, strict=True)
        return [x if guard is None else guard(x) for x, guard in pairs]

    in_graph = archive.in_graph(lambda *tensors: classifier.to_logits(classifier(guarded(tensors))))

    def logits_of(tensors):
        return in_graph(*tensors)

    def answer(tensors):
        logits = logits_of(tensors)
        label = tf.argmax(logits, axis=-1)
        outputs = {"probabilities": tf.nn.softmax(logits), "label": label}
        if label_names is not None:
            outputs["label_name"] = tf.gather(tf.constant(list(label_names)), label)
        return outputs

    found = {
        "serving_default": Signature(lambda *tensors: answer(tensors), inputs.specs),
        "logits": Signature(lambda *tensors: {"logits": logits_of(tensors)}, inputs.specs),
    }
    if takes_pictures(inputs):
        shape = tuple(inputs.specs[0].shape[1:])
        to_input = _picture_reader(model, inputs.specs[0], guards[0], archive)
        found["predict_bytes"] = Signature(
            lambda image_bytes: answer([to_input(decode_images(image_bytes, shape))]),
            [tf.TensorSpec((None,), tf.string, name="image_bytes")],
        )
    certify = certify_signature(model, inputs.specs, guarded, archive)
    if certify is not None:
        found["certify"] = Signature(*certify)
    return found


def takes_pictures(inputs):
    """Whether the model has one input that is an image of a fixed size, such as PNG can hold."""
    shape = inputs.specs[0].shape
    is_image = len(inputs.specs) == 1 and shape.rank == 4 and None not in shape[1:]
    return is_image and shape[-1] in (1, 3, 4) and not inputs.specs[0].dtype == tf.string


def _picture_reader(model, spec, guard, archive):
    """Returns a function from uint8 to what the input takes: on the scale of the guard, if any."""
    guard = guard or next(iter(guards_within(model)), None)
    in_graph = None if guard is None else archive.in_graph(guard.to_float)

    def to_input(pictures):
        if guard is not None and spec.dtype.is_floating:
            pictures = in_graph(pictures)
        return tf.cast(pictures, spec.dtype)

    return to_input
