"""Translation between the REST format of TensorFlow Serving and the tensors of a signature.

Row format: the request `{"instances": [...]}` has one entry per example, and its answer is
`{"predictions": [...]}`. Columnar format: the request `{"inputs": {...}}` has one entry per input,
and its answer is `{"outputs": {...}}`. Both may have a `signature_name`. Bytes are written as
`{"b64": "..."}`.
"""

import base64
import binascii
import json
import re

import numpy as np
import tensorflow as tf

_KINDS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b", "O": "SUO"}
# Decoded JSON takes many times the memory of its text, so the number of values and the nesting
# depth are limited before decoding.
MAX_PARTS, MAX_DEPTH = 4 * 2**20, 16
# A string without a closing quote matches up to the end of the body. Otherwise the search would
# start again at every quote, in quadratic time.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def decode(body):
    """Returns the decoded JSON of a request body.

    Raises:
        ValueError: for invalid JSON, and before decoding for too many values or too deep nesting.
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
        raise ValueError(f"Expected a body in JSON. Received: {len(body)} other bytes") from error


def encode(answer):
    """Returns an answer as the bytes of compact JSON."""
    return json.dumps(answer, separators=(",", ":")).encode()


def answer(signatures, body):
    """Returns the answer to a request, a dict that JSON can hold.

    Args:
        signatures: dict from names to functions, of a loaded SavedModel.
        body: the decoded JSON of the request.

    Raises:
        ValueError: if the request is invalid; the message says why.
    """
    signature = _signature(signatures, body)
    ((_, specs),) = [signature.structured_input_signature]
    is_row_format = "instances" in body
    values = _values_by_input(body, specs)
    tensors = {key: _tensor(key, values[key], spec) for key, spec in specs.items()}
    try:
        outputs = signature(**tensors)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(_message_of(error)) from error
    return _answer_of(outputs, is_row_format)


def _signature(signatures, body):
    """Returns the signature that a request names."""
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        found = f"the keys {sorted(body)}" if isinstance(body, dict) else type(body).__name__
        raise ValueError(
            f'Expected a JSON object with either "instances" or "inputs". Received: {found[:200]}'
        )
    name = body.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in signatures:
        raise ValueError(
            f"Expected a signature_name out of {sorted(signatures)}. Received: {str(name)[:200]!r}"
        )
    return signatures[name]


def _values_by_input(body, specs):
    """Returns a dict from the names of the inputs to their values in a request."""
    values = _columns(body["instances"], specs) if "instances" in body else body["inputs"]
    if isinstance(values, dict) and set(values) == set(specs):
        return values
    if len(specs) != 1:
        found = f"the inputs {sorted(values)}" if isinstance(values, dict) else "unnamed inputs"
        raise ValueError(f"Expected the inputs {sorted(specs)}. Received: {found[:200]}")
    return {next(iter(specs)): values}


def _answer_of(outputs, is_row_format):
    """Returns the outputs of a signature as a dict that JSON can hold."""
    plain = {key: _plain(value.numpy()) for key, value in outputs.items()}
    if not is_row_format:
        return {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}
    if len(plain) == 1:
        return {"predictions": next(iter(plain.values()))}
    rows = zip(*plain.values(), strict=True)
    return {"predictions": [dict(zip(plain, row, strict=True)) for row in rows]}


def _message_of(error):
    """Returns the message of the check that failed, without the internals of TensorFlow."""
    found = re.search(r"keras_robust: (.*?)(\\n|\n|$)", error.message)
    return found.group(1) if found else "Expected inputs that the model takes, such as whole files"


def _columns(instances, specs):
    """Returns the rows as columns if they have the names of the inputs, else unchanged."""
    if not isinstance(instances, list) or not instances:
        found = "an empty list" if isinstance(instances, list) else type(instances).__name__
        raise ValueError(
            f'Expected "instances" to be a list of at least one example. Received: {found}'
        )
    if all(isinstance(row, dict) and set(row) == set(specs) for row in instances):
        return {key: [row[key] for row in instances] for key in specs}
    return instances


def _tensor(name, value, spec):
    """Returns the value of one input as a tensor of its spec."""
    expected = f"Expected {spec.dtype.name} of shape {spec.shape.as_list()} for {name!r}"
    try:
        array = np.asarray(_decoded(value))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise ValueError(f"{expected}. Received: something else") from error
    wanted = np.dtype(spec.dtype.as_numpy_dtype)
    if array.dtype.kind in "iuf" and _has_booleans(value):
        raise ValueError(f"{expected}. Received: true or false among the numbers")
    if not _has_kind(array, wanted) or not spec.shape.is_compatible_with(array.shape):
        raise ValueError(f"{expected}. Received: shape {list(array.shape)}, {array.dtype}")
    if wanted.kind in "iu" and not np.array_equal(array, array.astype(wanted)):
        raise ValueError(f"{expected}. Received: numbers too large for it")
    # A number that overflows becomes infinite, which the guard of the model rejects.
    with np.errstate(over="ignore"):
        items = array.tolist() if spec.dtype == tf.string else array.astype(wanted)
    return tf.constant(items, spec.dtype)


def _has_kind(array, wanted):
    """Returns whether an array can become this dtype without a change of its meaning."""
    if array.dtype.kind not in _KINDS[wanted.kind]:
        return False
    is_text = wanted.kind == "O"
    return not is_text or all(isinstance(item, (str, bytes)) for item in array.ravel().tolist())


def _has_booleans(value):
    """Returns whether nested lists hold a boolean, which NumPy would turn into a number."""
    if not isinstance(value, list):
        return isinstance(value, bool)
    kinds = set(map(type, value))
    return bool in kinds or (list in kinds and any(map(_has_booleans, value)))


def _decoded(value):
    """Returns a value with bytes in place of `{"b64": "..."}`."""
    if isinstance(value, dict):
        if set(value) != {"b64"}:
            raise ValueError(f'Expected an object with the key "b64" only. Received: {set(value)}')
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        # An object array, because NumPy strips trailing zeros from an array of bytes.
        items = np.empty(len(value), object)
        items[:] = [_decoded(item) for item in value]
        return items
    return value


def _plain(array):
    if array.dtype == object:
        return [item.decode() for item in array]
    return array.tolist()
