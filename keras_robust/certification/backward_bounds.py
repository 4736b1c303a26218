"""Backward linear bounds: linear functions of tensors of a model, bounded over its inputs."""

from keras import ops

from keras_robust import backend
from keras_robust.threat_models.threat_model import flatten


def backward_bound(node, slopes, lines_of, region, norm):
    """Returns upper bounds of `<slopes, h>` over the inputs of a region, `(rows,)`.

    `h` is the tensor of a node. A pass from the node to the input replaces each curve by the line
    above it where its slope is positive, and by the line below it elsewhere. The result is an
    affine function of the input, which is never below `<slopes, h>`.

    Args:
        node: `bound_graph.Node`.
        slopes: tensor `(rows, *node.shape)`.
        lines_of: function that maps a node with a curve to its `Lines`, tensors `(rows, ...)`.
        region: `InputRegion` with one input for each row.
        norm: str, the norm of the region.
    """
    found, waiting = 0.0, {node.number: slopes}
    first, *others = node.ancestors()
    for each in reversed(others):
        slopes = waiting.pop(each.number)
        if each.curve is not None:
            passed, offset = _through_lines(slopes, lines_of(each))
            parts = [passed]
        else:
            offset = ops.sum(flatten(slopes) * flatten(each.offset), axis=-1)
            parts = [_through_affine(each, slopes, i) for i in range(len(each.inputs))]
        found = found + offset
        for source, part in zip(each.inputs, parts, strict=True):
            before = waiting.get(source.number)
            waiting[source.number] = part if before is None else before + part
    return found + region.maximum(waiting[first.number], norm)


def _through_lines(slopes, lines):
    above, below = ops.maximum(slopes, 0.0), ops.minimum(slopes, 0.0)
    offsets = above * lines.upper_offset + below * lines.lower_offset
    passed = above * lines.upper_slope + below * lines.lower_slope
    return passed, ops.sum(flatten(offsets), axis=-1)


def _through_affine(node, slopes, index):
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
