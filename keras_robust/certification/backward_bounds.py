"""Backward linear bounds: linear functions of tensors of a model, bounded over its inputs."""

from keras import ops

from keras_robust import backend
from keras_robust.threat_models.threat_model import flatten


def backward_bound(node, slopes, lines_of, region, norm):
    """Returns upper bounds of `<slopes, h>` over the inputs of a region, `(rows,)`.

    `h` is the tensor of a node. The bound is the maximum of the affine function that
    `affine_bound` returns.

    Args:
        node: `bound_graph.Node`.
        slopes: tensor `(rows, *node.shape)`.
        lines_of: function of a node with a curve that returns its `Lines`, tensors `(rows, ...)`.
        region: `InputRegion` with one input for each row.
        norm: str, the norm of the region.
    """
    slopes, offset = affine_bound(node, slopes, lines_of)
    return offset + region.maximum(slopes, norm)


def affine_bound(node, slopes, lines_of, add_before=None):
    """Returns an affine function of the input that is never below `<slopes, h>`.

    `h` is the tensor of a node. A pass from the node to the input replaces each curve by the line
    above it where its slope is positive, and by the line below it elsewhere.

    Args:
        node: `bound_graph.Node`.
        slopes: tensor `(rows, *node.shape)`.
        lines_of: function of a node with a curve that returns its `Lines`, tensors `(rows, ...)`.
        add_before: function of a node with a curve and the slopes after it that returns slopes to
            add before it; `None` for none. The function is then no bound where the input of the
            curve times these slopes is negative.

    Returns:
        `(slopes, offset)`, tensors `(rows, *shape of the input)` and `(rows,)`.
    """
    found, waiting = 0.0, {node.number: slopes}
    first, *others = node.ancestors()
    for each in reversed(others):
        slopes = waiting.pop(each.number)
        if each.curve is not None:
            passed, offset = _through_lines(slopes, lines_of(each))
            parts = [passed if add_before is None else passed + add_before(each, slopes)]
        else:
            parts, offset = _through_affine(each, slopes)
        found = found + offset
        _add(waiting, each.inputs, parts)
    return waiting[first.number], found


def affine_parts(node, slopes):
    """Returns `<slopes, h>` as a function of the input and of the curves that come last before it.

    `h` is the tensor of a node.

    Args:
        node: `bound_graph.Node`.
        slopes: tensor `(rows, *node.shape)`.

    Returns:
        A dict from the number of the input, or of a node with a curve, to slopes, tensors
        `(rows, *shape)`; and the offset, `(rows,)`.
    """
    found, waiting = ops.zeros(ops.shape(slopes)[0], slopes.dtype), {node.number: slopes}
    for each in reversed(node.ancestors()):
        if each.number in waiting and each.function is not None:
            parts, offset = _through_affine(each, waiting.pop(each.number))
            found = found + offset
            _add(waiting, each.inputs, parts)
    return waiting, found


def _add(waiting, nodes, parts):
    """Adds slopes to those that wait at nodes."""
    for node, part in zip(nodes, parts, strict=True):
        before = waiting.get(node.number)
        waiting[node.number] = part if before is None else before + part


def _through_lines(slopes, lines):
    above, below = ops.maximum(slopes, 0.0), ops.minimum(slopes, 0.0)
    offsets = above * lines.upper_offset + below * lines.lower_offset
    passed = above * lines.upper_slope + below * lines.lower_slope
    return passed, ops.sum(flatten(offsets), axis=-1)


def _through_affine(node, slopes):
    """Returns the slopes before an affine function, one tensor for each input, and the offset."""
    offset = ops.sum(flatten(slopes) * flatten(node.offset), axis=-1)
    return [_before(node, slopes, index) for index in range(len(node.inputs))], offset


def _before(node, slopes, index):
    """Returns the slopes before an affine function, with respect to one of its inputs."""
    source = node.inputs[index]

    def values(x):
        others = [ops.zeros((1, *other.shape), x.dtype) for other in node.inputs]
        others[index] = x
        if len(others) > 1:
            # Layers such as Concatenate do not broadcast.
            others = [ops.broadcast_to(part, (ops.shape(x)[0], *part.shape[1:])) for part in others]
        return ops.sum(flatten(slopes) * flatten(node.function(*others)), axis=-1), ()

    # The gradient of an affine function is the same everywhere.
    origin = ops.zeros((ops.shape(slopes)[0], *source.shape), slopes.dtype)
    return backend.value_and_input_gradient(values, origin)[1]
