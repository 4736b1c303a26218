"""Requests for a served model, with the answers of Keras."""

import numpy as np
import tensorflow as tf

from keras_robust.backend.tensorflow import required_message
from keras_robust.export.warmup_log import Exchange

_SIZES = (1, 8)
# Of a certificate, to warm up; a real one takes more copies.
_NUM_SAMPLES = 100


def make_exchanges(signatures, inputs, guards, x=None):
    """Returns a list of `Exchange`, at least one for every signature.

    Answers are left out where they are random.

    Args:
        signatures: dict of `Signature` by name.
        inputs: `Inputs` of the model.
        guards: list of `InputGuard` or `None`, one for each input.
        x: examples, an array or structure of arrays, of which the first are sent; `None` for random
            numbers.

    Raises:
        ValueError: for examples that the guard rejects.
    """
    boxes = [None if guard is None else guard.bounds for guard in guards]
    arrays = inputs.make_up(max(_SIZES), boxes) if x is None else inputs.unpack(x)
    exchanges = []
    for name, signature in signatures.items():
        for size in _SIZES:
            rows = [array[:size] for array in arrays]
            exchanges.append(_exchange(name, signature, _request(name, rows, boxes)))
    return exchanges


def _request(name, rows, boxes):
    if name == "predict_bytes":
        return [np.array([_png(picture, boxes[0]) for picture in rows[0]], object)]
    if name == "certify":
        return [*rows, np.zeros(2, "int32"), np.int32(_NUM_SAMPLES), np.float32(0.001)]
    return rows


def _png(picture, box):
    if picture.dtype != np.uint8:
        low, high = (0.0, 255.0) if box is None else map(np.asarray, box)
        picture = np.clip(np.rint((picture - low) / (high - low) * 255.0), 0, 255).astype("uint8")
    return tf.io.encode_png(picture).numpy()


def _exchange(name, signature, request):
    inputs = {spec.name: value for spec, value in zip(signature.specs, request, strict=True)}
    try:
        answer, again = (_answer(signature, request) for _ in range(2))
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"The signature {name!r} rejects the examples: give the `guard` that fits the model, "
            f"or other examples. {required_message(error) or error.message}"
        ) from error
    is_same = all(np.array_equal(answer[key], again[key]) for key in answer)
    return Exchange(name, inputs, answer if is_same else {})


def _answer(signature, request):
    tensors = [
        tf.constant(value, spec.dtype) for value, spec in zip(request, signature.specs, strict=True)
    ]
    return {key: value.numpy() for key, value in signature.function(*tensors).items()}
