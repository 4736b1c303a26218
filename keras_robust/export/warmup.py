"""Warmup requests for a served model, with the answers that Keras gives."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from scipy import special

from keras_robust import backend
from keras_robust import models
from keras_robust.backend.tensorflow.ops import required_message
from keras_robust.export.prediction_function import is_random
from keras_robust.export.warmup_log import WarmupRequest

_SIZES = (1, 8)
# Enough copies to warm up `certify`; a useful certificate takes more.
_NUM_SAMPLES = 100


def make_warmup_requests(served, signatures, data=None):
    """Returns a list of `WarmupRequest`, at least one for every signature.

    The expected logits, probabilities and labels come from the Keras model, not from the
    signatures. Requests with random answers have no expected answer.

    Args:
        served: `ServedModel`.
        signatures: dict of `Signature` by name.
        data: `(x, y)`; the requests hold its first examples. Defaults to `None`, random numbers.

    Raises:
        ValueError: if the guard rejects the examples.
    """
    keras_answer = _KerasAnswer(served)
    boxes = served.bounds
    arrays = served.first_rows(data, max(_SIZES))
    warmup_requests, draws = [], is_random(served.model)
    for name, signature in signatures.items():
        for size in _SIZES:
            rows = [array[:size] for array in arrays]
            request = _make_request(name, signature, _request_values(name, rows, boxes))
            if name != "certify" and draws:
                # With few votes, two random answers can be equal by chance.
                request.outputs.clear()
            elif request.outputs and name != "certify":
                request.outputs.update(keras_answer(request))
            warmup_requests.append(request)
    return warmup_requests


class _KerasAnswer:
    """Computes the expected answer to a request with Keras and NumPy alone."""

    def __init__(self, served):
        self._served = served
        self._takes_logits = models.Classifier(served.model).from_logits is not False

    def __call__(self, request):
        outputs, are_logits = self._predict(self._guarded_inputs(request))
        found = {"probabilities": special.softmax(outputs, axis=-1) if are_logits else outputs}
        found["label"] = np.argmax(outputs, axis=-1)
        if are_logits:
            found["logits"] = outputs
        return {name: value for name, value in found.items() if name in request.outputs}

    def _guarded_inputs(self, request):
        """Returns the tensors that reach the model behind its guards."""
        values = list(request.inputs.values())
        if request.signature == "predict_bytes":
            pictures = np.stack([tf.io.decode_png(file).numpy() for file in values[0]])
            guard = self._served.scale_guard
            values = [pictures if guard is None else guard.to_float(pictures)]
        pairs = zip(values, self._served.inputs.specs, strict=True)
        return self._served.apply_guards(
            [ops.convert_to_tensor(value, spec.dtype.name) for value, spec in pairs]
        )

    def _predict(self, tensors):
        """Returns an array with at least two columns, and whether it holds logits."""
        outputs = self._served.model(self._served.inputs.pack(tensors), training=False)
        (outputs,) = keras.tree.flatten(outputs)
        are_logits = self._takes_logits and backend.keras_logits(outputs) is None
        outputs = ops.convert_to_numpy(ops.cast(outputs, "float32"))
        if outputs.shape[-1] == 1:
            # One output is the second of two classes.
            other = np.zeros_like(outputs) if are_logits else 1.0 - outputs
            outputs = np.concatenate([other, outputs], axis=-1)
        return outputs, are_logits


def _request_values(name, rows, boxes):
    """Returns the values of the inputs of a signature for these rows."""
    if name == "predict_bytes":
        return [np.array([_png(picture, boxes[0]) for picture in rows[0]], object)]
    if name == "certify":
        return [*rows, np.zeros(2, "int32"), np.int32(_NUM_SAMPLES), np.float32(0.001)]
    return rows


def _png(picture, box):
    """Returns a picture as the bytes of a PNG file, scaled from its bounds to 0 to 255."""
    if picture.dtype != np.uint8:
        low, high = (0.0, 255.0) if box is None else map(np.asarray, box)
        # A width of 1 avoids a division by 0 where both bounds are equal.
        width = np.where(high > low, np.subtract(high, low), 1.0)
        picture = np.clip(np.rint((picture - low) / width * 255.0), 0, 255).astype("uint8")
    return tf.io.encode_png(picture).numpy()


def _make_request(name, signature, values):
    """Returns a `WarmupRequest`, without an answer if two calls of the signature differ."""
    inputs = {spec.name: value for spec, value in zip(signature.specs, values, strict=True)}
    try:
        # Two calls show whether the answer is random.
        answer, again = (_answer(signature, values) for _ in range(2))
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"The signature {name!r} rejects the examples: pass a `guard` that fits the model, "
            f"or other examples. Received: the error {required_message(error) or error.message}"
        ) from error
    is_same = all(np.array_equal(answer[key], again[key]) for key in answer)
    return WarmupRequest(name, inputs, answer if is_same else {})


def _answer(signature, values):
    tensors = [
        tf.constant(value, spec.dtype) for value, spec in zip(values, signature.specs, strict=True)
    ]
    return {key: value.numpy() for key, value in signature.function(*tensors).items()}
