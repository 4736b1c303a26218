"""CROWN: bounds of the tensors of a model over a region of inputs, by linear functions."""

import dataclasses

import numpy as np
import scipy.sparse
from keras import ops

from keras_robust import backend
from keras_robust.certification.backward_bounds import backward_bound
from keras_robust.certification.bound_graph import bound_graph
from keras_robust.certification.curves import Lines
from keras_robust.certification.input_region import InputRegion
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.model_checks import check_logits
from keras_robust.certification.optimized_lines import optimized_bound
from keras_robust.certification.padding import padded_rows


def crown_margins(model, box, labels):
    """Returns upper bounds of `z_j - z_y` over a box of inputs, `(batch_size, num_classes)`.

    The lines around each curve are chosen from interval bounds, and one backward pass from the
    margins bounds them: the bound of CROWN-IBP. Cost: one pass of intervals, and one backward pass
    for each class. The entries for `j = y` are 0.

    Args:
        model: built Sequential or Functional `keras.Model` that ends in logits.
        box: `IntervalBounds` of the inputs.
        labels: int32 `(batch_size,)`, `y`; a model with one logit has two classes.

    Raises:
        ValueError: for a layer or an activation without a rule; the message names it.
    """
    x, dtype = box.centre, box.lower.dtype
    node = bound_graph(model, box.lower.shape[1:], dtype)
    node = node.logits or node
    bounds, lines = {}, {}
    for part in node.ancestors():
        before = [bounds[source.number] for source in part.inputs]
        bounds[part.number] = part.interval(*before) if before else box
        if part.curve is not None:
            lines[part.number] = part.curve.lines(before[0].lower, before[0].upper)
    classes = ops.convert_to_tensor(_classes(node.shape), dtype)
    num_classes = classes.shape[0]
    slopes = ops.expand_dims(classes, 0) - ops.expand_dims(ops.take(classes, labels, axis=0), 1)

    def repeated(tensor):
        return ops.repeat(tensor, num_classes, axis=0)

    region = InputRegion(*map(repeated, (x, ops.zeros_like(x), box.lower, box.upper)))
    found = backward_bound(
        node,
        ops.reshape(slopes, (-1, *node.shape)),
        lambda part: Lines(*map(repeated, lines[part.number])),
        region,
        "Linf",
    )
    return ops.reshape(found, (-1, num_classes))


def _classes(shape):
    """Returns the logits of each class as functions of the outputs, `(num_classes, *shape)`."""
    if len(shape) != 1:
        raise ValueError(
            "A certificate is about one classification, with outputs (batch_size, num_classes). "
            f"Received: outputs of shape {(None, *shape)}"
        )
    (count,) = shape
    # A single logit z stands for the two logits (0, z).
    return np.eye(count) if count > 1 else np.array([[0.0], [1.0]])


@dataclasses.dataclass
class InnerBounds:
    """What is known of the nodes so far, by their numbers.

    Args:
        region: `InputRegion` of the examples.
        boxes: dict of pairs `(lower, upper)`, tensors `(batch_size, *node.shape)`.
        lines: dict of the `Lines` of the nodes with a curve.
    """

    region: InputRegion
    boxes: dict = dataclasses.field(default_factory=dict)
    lines: dict = dataclasses.field(default_factory=dict)


class LinearBounds:
    """Bounds the margins of a model in float64, with tight bounds of all inner tensors.

    Each tensor in front of a curve is bounded by backward passes of its own, for those of its
    entries where the curve is no line. One pass bounds up to `chunk_size` entries of a batch.

    Args:
        model: built Sequential or Functional `keras.Model`.
        shape: tuple, the shape of one example.
        norm: str, `"Linf"`, `"L2"` or `"L1"`.
        chunk_size: int, the number of rows of a backward pass.
    """

    def __init__(self, model, shape, norm, chunk_size):
        output = bound_graph(model, shape, "float64")
        check_logits(model, output)
        self.logits = output.logits or output
        self.nodes = self.logits.ancestors()
        self.norm = norm
        self._chunk_size = chunk_size
        self._curves_after = {node.number: [] for node in self.nodes}
        for node in self.nodes:
            if node.curve is not None:
                self._curves_after[node.inputs[0].number].append(node.curve)
        self._compiled = {}

    def largest_margins(self, region, labels, num_iterations=0, inner_iterations=0, rounding=0.0):
        """Returns upper bounds of `max z_j - z_y` over the wrong classes, a NumPy array `(n,)`.

        Args:
            region: `InputRegion`, float64.
            labels: int array `(n,)`, `y`.
            num_iterations: int, the steps that optimize the slopes of the lines for each margin.
            inner_iterations: int, those for each entry of an inner tensor.
            rounding: float, the error of a logit, as a share of `term_sizes`, that is added.
        """
        inner = self.inner_bounds(region, inner_iterations)
        examples, slopes = self.margins(labels)
        slopes = scipy.sparse.csr_array(slopes)
        found = self._upper(self.logits, examples, slopes, inner, num_iterations)
        largest = np.max(found.reshape(len(labels), -1), axis=-1)
        return largest + rounding * self.term_sizes(inner)

    def term_sizes(self, inner):
        """Returns the largest sum of the sizes of the terms of a logit, a NumPy array `(n,)`.

        `max_j sum_i |w_ji| |h_i| + |b_j|` with the largest `|h_i|` of the region: the scale of the
        rounding errors of the last layer, also where its terms cancel.

        Args:
            inner: `InnerBounds`.
        """
        is_affine = self.logits.function is not None
        nodes = self.logits.inputs if is_affine else [self.logits]
        sizes = [np.max(np.abs(inner.boxes[node.number]), axis=0) for node in nodes]
        if is_affine:
            spans = [IntervalBounds(*map(ops.convert_to_tensor, (-size, size))) for size in sizes]
            terms = self.logits.interval(*spans).radius + ops.abs(self.logits.offset)
            sizes = [np.asarray(terms)]
        return np.max(sizes[0].reshape(len(sizes[0]), -1), axis=-1)

    def margins(self, labels):
        """Returns all margins as functions of the logits.

        Returns:
            The example of each margin, and its slopes, NumPy arrays `(rows,)`, `(rows, outputs)`.
        """
        classes = _classes(self.logits.shape)
        examples, others = np.nonzero(np.arange(len(classes)) != labels[:, None])
        return examples, classes[others] - classes[labels[examples]]

    def inner_bounds(self, region, num_iterations=0, known=None):
        """Returns the `InnerBounds` of all nodes.

        Args:
            region: `InputRegion`, float64.
            num_iterations: int, the steps that optimize the slopes of the lines for each bound.
            known: dict from numbers of nodes to boxes that are known already, or `None`.
        """
        inner, known = InnerBounds(region), known or {}
        for node in self.nodes:
            before = [inner.boxes[source.number] for source in node.inputs]
            if not before:
                inner.boxes[node.number] = region.lower, region.upper
                continue
            box = self._compile(node, "interval", _interval(node))(*before)
            if node.number in known:
                lower, upper = known[node.number]
                box = ops.maximum(box[0], lower), ops.minimum(box[1], upper)
            inner.boxes[node.number] = box
            if node.curve is not None:
                lines = self._compile(node, "lines", node.curve.lines)
                inner.lines[node.number] = lines(*before[0])
            # Another curve may follow directly, so that the bounds need the lines.
            if self._curves_after[node.number] and not self._is_exact(node):
                inner.boxes[node.number] = self._tightened(node, inner, num_iterations)
        return inner

    def _is_exact(self, node):
        # Intervals are exact behind a single affine function.
        return self.norm == "Linf" and len(node.inputs) == 1 and not node.inputs[0].inputs

    def _tightened(self, node, inner, num_iterations):
        """Returns the bounds of a node, where a curve after it is no line."""
        lower, upper = map(np.array, inner.boxes[node.number])
        curved = np.zeros(lower.shape, bool)
        for curve in self._curves_after[node.number]:
            curved |= ~np.asarray(curve.is_line_on(lower, upper))
        examples, entries = np.nonzero(curved.reshape(len(curved), -1))
        for ends, sign, nearer in ((upper, 1.0, np.minimum), (lower, -1.0, np.maximum)):
            ones = np.full(len(examples), sign), (np.arange(len(examples)), entries)
            slopes = scipy.sparse.csr_array(ones, shape=(len(examples), lower[0].size))
            found = self._upper(node, examples, slopes, inner, num_iterations)
            flat = ends.reshape(len(ends), -1)
            flat[examples, entries] = nearer(flat[examples, entries], sign * found)
        # Rounding may cross the ends of a very short interval.
        return tuple(map(ops.convert_to_tensor, (np.minimum(lower, upper), upper)))

    def _upper(self, node, examples, slopes, inner, num_iterations):
        """Returns upper bounds of functions of the tensor of a node, a NumPy array `(rows,)`.

        Args:
            node: a `Node`.
            examples: int array `(rows,)`, the example of each function.
            slopes: sparse array `(rows, entries)`, the functions.
            inner: `InnerBounds` of the nodes before it.
            num_iterations: int, the steps that optimize the slopes of the lines.
        """
        curves = [part for part in node.ancestors() if part.curve is not None]
        boxes = [inner.boxes[part.inputs[0].number] for part in curves]
        lines = [inner.lines[part.number] for part in curves]
        bound = self._compile(node, num_iterations, self._bound(node, curves, num_iterations))
        found = []
        for start in range(0, len(examples), self._chunk_size):
            count = min(self._chunk_size, len(examples) - start)
            rows = start + padded_rows(count, most=self._chunk_size)
            dense = slopes[rows].toarray().reshape(-1, *node.shape)
            arguments = map(ops.convert_to_tensor, (examples[rows], dense))
            found.append(np.asarray(bound(*arguments, boxes, lines, inner.region))[:count])
        return np.concatenate(found) if found else np.zeros(0)

    def _bound(self, node, curves, num_iterations):
        """Returns the function that bounds functions of the tensor of a node."""
        indices = {part.number: index for index, part in enumerate(curves)}

        def bound(examples, slopes, boxes, lines, region):
            def rows(tensor):
                return ops.take(tensor, examples, axis=0)

            region = InputRegion(*map(rows, region))
            lines = [Lines(*map(rows, each)) for each in lines]

            def with_lines(lines):
                def lines_of(part):
                    return lines[indices[part.number]]

                return backward_bound(node, slopes, lines_of, region, self.norm)

            if not num_iterations or not curves:
                return with_lines(lines)
            boxes = [tuple(map(rows, box)) for box in boxes]
            given = [part.curve for part in curves]
            return optimized_bound(with_lines, given, boxes, lines, num_iterations)

        return bound

    def _compile(self, node, purpose, function):
        """Returns the function compiled, once for each node and purpose."""
        return self._compiled.setdefault((node.number, purpose), backend.compile_function(function))


def _interval(node):
    def ends(*boxes):
        box = node.interval(*(IntervalBounds(*box) for box in boxes))
        return box.lower, box.upper

    return ends
