"""TensorFlow: requirements that are checked in a graph, and the messages of their errors."""

import re

import tensorflow as tf

_MARK = "keras_robust: "


def require(condition, template, *values):
    """Returns an op that fails with `template.format(*values)` unless `condition` holds.

    The op must be made a control dependency. XLA drops it, so call this outside of compiled code.
    """
    texts = template.split("{}")
    pieces = [_MARK + texts[0]]
    for value, text in zip(values, texts[1:], strict=True):
        pieces += [_text(value), text]
    return tf.debugging.Assert(condition, [tf.strings.join([*pieces, "\n"])])


def require_all(conditions, message, x):
    """Returns `x`; computing it fails with `message` unless all `conditions` hold.

    XLA, and export formats other than those of TensorFlow, drop the check and return `x`.
    """
    # `require` formats its message with operations that XLA cannot compile; this message is a
    # constant.
    check = tf.debugging.Assert(tf.reduce_all(conditions), [f"{_MARK}{message}\n"])
    with tf.control_dependencies([check]):
        return tf.identity(x)


def _text(value):
    # Print 0.1 as `0.1`, not with all digits of float32.
    if value.dtype.is_floating:
        return tf.strings.as_string(value, shortest=True)
    return tf.strings.as_string(value)


def required_message(error):
    """Returns the message of a failed `require` inside a TensorFlow error, or `None`.

    Some mistakes are first detected by operations of TensorFlow; their errors are explained too.
    """
    found = re.search(re.escape(_MARK) + r"(.*?)(\\n|\n|$)", str(error))
    if found:
        return found.group(1)
    found = re.search(
        r"label value of (-?\d+) .* outside the valid range of \[0, (\d+)\)", str(error)
    )
    if found:
        last = int(found.group(2)) - 1
        return (
            f"Labels must be class indices from 0 to {last}. Received: the label {found.group(1)}"
        )
    found = re.search(r"Incompatible shapes: (\[[\d,]*\] vs. \[[\d,]*\])", str(error))
    if found:
        return (
            "Outputs, labels and sample weights do not fit together under the compiled loss. "
            f"Received: arrays of shapes {found.group(1)}"
        )
    # An optimized graph fails in the gradient of the convolution, another one in the convolution.
    found = re.search(
        r"same size and shape\. +Input 0: (\S+) != input 1: (\S+)"
        r"|as many biases as the last dimension of the input tensor: (\S+) vs\. (\S+)",
        str(error),
    )
    shapes = [shape for shape in found.groups() if shape] if found else []
    if any(re.match(r"\[0[],]", shape) for shape in shapes):
        return (
            "A batch leaves a replica without examples, and TensorFlow fails. Choose a batch "
            "size that the number of replicas divides, and drop the remaining rows: `x[: len(x) "
            "// batch_size * batch_size]`, or `drop_remainder=True` in `tf.data`. Received: "
            f"arrays of shapes {' and '.join(shapes)}"
        )
    return None
