"""The REST form of TensorFlow Serving: JSON to the inputs of a signature, and answers to JSON.

Row form: `{"instances": [...]}`, one entry per example, answered by `{"predictions": [...]}`.
Columnar form: `{"inputs": {...}}`, one entry per input, answered by `{"outputs": {...}}`.
Either may have a `signature_name`. Bytes are `{"b64": "..."}`.
"""

import base64
import binascii
import json
import re

import numpy as np
import tensorflow as tf

_KINDS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b", "O": "SUO"}
# Of JSON, which takes many times its size once it is decoded: lists, objects and what is in them,
# and how deep they are in each other.
MAX_PARTS, MAX_DEPTH = 4 * 2**20, 16
# One that has no end goes to the end of the body: to look for its end from every quote in it would
# take the square of its length.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def decode(body):
    """Returns the JSON in the body of a request.

    Raises:
        ValueError: for what is no JSON, has too many parts or is too deep, before it is decoded.
    """
    plain = np.frombuffer(_STRING.sub(b"", body), "uint8")
    opens, closes = ((plain == one) | (plain == other) for one, other in (b"[{", b"]}"))
    parts = int(np.count_nonzero(opens)) + int(np.count_nonzero(plain == ord(",")))
    if parts > MAX_PARTS:
        raise ValueError(f"Expected at most {MAX_PARTS} values in a request. Received: {parts}")
    depth = np.cumsum(opens.astype("int8") - closes.astype("int8"), dtype="int32").max(initial=0)
    if depth > MAX_DEPTH:
        raise ValueError(f"Expected lists at most {MAX_DEPTH} deep. Received: {depth}")
    try:
        return json.loads(body)
    except (RecursionError, ValueError) as error:
        raise ValueError("Expected a body in JSON") from error


def encode(answer):
    """Returns the bytes of an answer."""
    return json.dumps(answer, separators=(",", ":")).encode()


def answer(signatures, body):
    """Returns the answer to a request, a dict that JSON can hold.

    Args:
        signatures: dict from names to functions, of a loaded SavedModel.
        body: the JSON of the request.

    Raises:
        ValueError: for whatever is wrong with the request.
    """
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        raise ValueError('Expected a JSON object with either "instances" or "inputs"')
    name = body.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in signatures:
        raise ValueError(f"Expected a signature_name out of {sorted(signatures)}")
    signature = signatures[name]
    ((_, specs),) = [signature.structured_input_signature]
    is_row_form = "instances" in body
    values = _columns(body["instances"], specs) if is_row_form else body["inputs"]
    if not isinstance(values, dict) or set(values) != set(specs):
        if len(specs) != 1:
            raise ValueError(f"Expected the inputs {sorted(specs)}")
        values = {next(iter(specs)): values}
    tensors = {key: _tensor(key, values[key], spec) for key, spec in specs.items()}
    try:
        outputs = signature(**tensors)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(_told(error)) from error
    plain = {key: _plain(value.numpy()) for key, value in outputs.items()}
    if not is_row_form:
        return {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}
    if len(plain) == 1:
        return {"predictions": next(iter(plain.values()))}
    rows = zip(*plain.values(), strict=True)
    return {"predictions": [dict(zip(plain, row, strict=True)) for row in rows]}


def _told(error):
    """Returns what the checks of the model say; the rest is about the inside of TensorFlow."""
    found = re.search(r"keras_robust: (.*?)(\\n|\n|$)", error.message)
    return found.group(1) if found else "Expected inputs that the model takes, such as whole files"


def _columns(instances, specs):
    """Turns rows, plain or with the names of the inputs, into columns."""
    if not isinstance(instances, list) or not instances:
        raise ValueError('Expected "instances" to be a list of at least one example')
    if all(isinstance(row, dict) and set(row) == set(specs) for row in instances):
        return {key: [row[key] for row in instances] for key in specs}
    return instances


def _tensor(name, value, spec):
    expected = f"Expected {spec.dtype.name} of shape {spec.shape.as_list()} for {name!r}"
    try:
        array = np.asarray(_decoded(value))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise ValueError(f"{expected}. Received: something else") from error
    wanted = spec.dtype.as_numpy_dtype
    is_text = spec.dtype == tf.string
    kind_fits = array.dtype.kind in _KINDS[np.dtype(wanted).kind]
    if array.dtype.kind in "iuf" and _has_truths(value):
        raise ValueError(f"{expected}. Received: true or false among the numbers")
    if is_text and kind_fits:
        kind_fits = all(isinstance(item, (str, bytes)) for item in array.ravel().tolist())
    if not kind_fits or not spec.shape.is_compatible_with(array.shape):
        raise ValueError(f"{expected}. Received: shape {list(array.shape)}, {array.dtype}")
    if np.dtype(wanted).kind in "iu" and not np.array_equal(array, array.astype(wanted)):
        raise ValueError(f"{expected}. Received: numbers too large for it")
    with np.errstate(over="ignore"):  # It becomes infinite, which the guard of the model rejects.
        return tf.constant(array.tolist() if is_text else array.astype(wanted), spec.dtype)


def _has_truths(value):
    """Whether there is a truth value in a list of lists, which NumPy would take for a number."""
    if not isinstance(value, list):
        return isinstance(value, bool)
    kinds = set(map(type, value))
    return bool in kinds or (list in kinds and any(map(_has_truths, value)))


def _decoded(value):
    if isinstance(value, dict):
        if set(value) != {"b64"}:
            raise ValueError
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        # Not an array of bytes, from which NumPy strips zeros at the end.
        items = np.empty(len(value), object)
        items[:] = [_decoded(item) for item in value]
        return items
    return value


def _plain(array):
    if array.dtype == object:
        return [item.decode() for item in array]
    return array.tolist()
