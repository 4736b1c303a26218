"""Boxes of values, and the largest differences between logits in a box."""

import dataclasses

from keras import ops


@dataclasses.dataclass(frozen=True)
class IntervalBounds:
    """The box of all tensors between a lower and an upper tensor.

    Args:
        lower, upper: float tensors `(batch_size, ...)`.
        origin: `(kernel, bias, box)` of the affine layer that computed this box: its weights and
            the box of its inputs; or `None`. Differences between entries have tighter bounds when
            they are computed from the inputs of the layer.
        logits: the box before a final softmax or sigmoid, or `None`.
    """

    lower: object
    upper: object
    origin: tuple | None = None
    logits: object = None

    @property
    def centre(self):
        """The center of the box."""
        return 0.5 * (self.upper + self.lower)

    @property
    def radius(self):
        """Half of the width of the box in each coordinate."""
        return 0.5 * (self.upper - self.lower)


def worst_margins(box, labels):
    """Returns upper bounds of `z_j - z_y`, `(batch_size, num_classes)`, 0 for `j = y`.

    If the logits come from a Dense layer with inputs `h`, `(w_j - w_y) h` is bounded instead of
    `z_j` and `z_y` one by one (elision). The bound is never looser, and usually tighter.
    """
    # A softmax keeps the order of the logits, whose bounds are tighter than those of probabilities.
    box = box.logits or box
    if box.origin is None:
        if box.upper.shape[-1] < 2:
            raise ValueError(
                "A model with one output must end in a Dense layer, with or without a sigmoid. "
                f"Received: outputs of shape {tuple(box.upper.shape)}"
            )
        own = ops.one_hot(labels, box.upper.shape[-1], dtype=box.upper.dtype)
        lowest = ops.sum(own * box.lower, axis=-1, keepdims=True)
        return (1.0 - own) * (box.upper - lowest)
    kernel, bias, inner = box.origin
    if kernel.shape[-1] == 1:
        # A single logit z stands for the two logits (0, z).
        kernel, bias = (ops.concatenate([ops.zeros_like(w), w], axis=-1) for w in (kernel, bias))
    rows = ops.transpose(kernel)
    slopes = ops.expand_dims(rows, 0) - ops.expand_dims(ops.take(rows, labels, axis=0), 1)
    offsets = ops.expand_dims(bias, 0) - ops.expand_dims(ops.take(bias, labels), 1)
    centre = ops.einsum("bi,bci->bc", inner.centre, slopes)
    return centre + offsets + ops.einsum("bi,bci->bc", inner.radius, ops.abs(slopes))
