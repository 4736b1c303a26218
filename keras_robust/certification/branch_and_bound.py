"""Branch and bound over the signs of ReLUs, which decides whether a margin can reach 0."""

import functools
import heapq
import itertools
import math
import time
import typing

import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.certification.backward_bounds import affine_bound
from keras_robust.certification.curves import RELU
from keras_robust.certification.domains import is_empty
from keras_robust.certification.domains import roots
from keras_robust.certification.domains import split
from keras_robust.certification.domains import stacked
from keras_robust.certification.domains import unit_to_split
from keras_robust.certification.input_region import InputRegion
from keras_robust.certification.optimized_lines import Packing
from keras_robust.certification.optimized_lines import optimized
from keras_robust.certification.padding import padded_rows
from keras_robust.certification.relu_program import ReluProgram
from keras_robust.evaluation.outcomes import BROKEN
from keras_robust.evaluation.outcomes import INCONCLUSIVE
from keras_robust.evaluation.outcomes import PROVED

_NUM_ITERATIONS = 20
_LEAST_ROWS = 16
# Shares of the time limit, at which the first search ends, and two kinds of programs after it.
_FIRST_SHARE, _TIGHTENING_SHARE, _SOLVING_SHARE = 0.2, 0.5, 0.8


class _Problem(typing.NamedTuple):
    """The arguments of `BranchAndBound.decide`, with `margins`, `(margins, outputs)`."""

    region: InputRegion
    margins: np.ndarray
    slack: float
    find_mistake: typing.Callable


class BranchAndBound:
    """Splits a region at the signs of ReLUs until the margins are bounded below 0 on each part.

    Args:
        linear: `LinearBounds` of a model whose activations are all ReLU.
        batch_size: int, the number of domains that are split at a time.
    """

    def __init__(self, linear, batch_size):
        self._linear = linear
        self._batch_size = batch_size
        self._curves = [node for node in linear.nodes if node.curve is not None]
        others = [node for node in self._curves if node.curve is not RELU]
        if others:
            raise ValueError(
                "Branch and bound splits ReLUs, and the model has another activation. Use "
                '"alpha_crown". '
                f"Received: {len(others)} activations that are not ReLU"
            )
        sizes = [int(np.prod(node.shape)) for node in self._curves]
        # Where the units of each curve start in arrays of all units.
        self._starts = np.cumsum([0, *sizes])
        self._bound = backend.compile_function(self._bound_domains)

    @functools.cached_property
    def _program(self):
        return ReluProgram(self._linear)

    def decide(self, region, label, rounding, find_mistake, time_limit):
        """Returns whether no margin of one example reaches 0, or a mistake.

        Args:
            region: `InputRegion` of one example.
            label: int, the class that the margins compare with.
            rounding: float, the error of a logit, as a share of `LinearBounds.term_sizes`.
            find_mistake: function of points `(n, ...)` of the region that returns one that the
                model gets wrong, or `None`.
            time_limit: float, the seconds after which to give up.

        Returns:
            `"proved"` and `None`, `"broken"` and a point, or `"inconclusive"` and `None`.
        """
        start = time.monotonic()
        _, margins = self._linear.margins(np.array([label]))
        inner = self._linear.inner_bounds(region, _NUM_ITERATIONS)
        slack = rounding * float(self._linear.term_sizes(inner)[0])
        problem = _Problem(region, margins, slack, find_mistake)
        ends = [end[0] for end in self._intervals(inner)]
        every = range(len(margins))
        if not self._curves:
            # There is nothing to split.
            return self._solve(problem, every, ends, start + time_limit)[:2]
        outcome, point = self._search(problem, every, ends, start + _FIRST_SHARE * time_limit)
        if outcome != INCONCLUSIVE or time.monotonic() > start + time_limit:
            return outcome, point
        _, _, scores, _ = self._bounds(roots(every, ends), margins, region)
        deadline = start + _TIGHTENING_SHARE * time_limit
        ends = self._program.tightened(ends, _box(region), np.max(scores, axis=0), deadline)
        bounds, *_ = self._bounds(roots(every, ends), margins, region)
        still_open = np.nonzero(~(bounds < -slack))[0]
        deadline = start + _SOLVING_SHARE * time_limit
        outcome, point, still_open = self._solve(problem, still_open, ends, deadline)
        if outcome != INCONCLUSIVE:
            return outcome, point
        return self._search(problem, still_open, ends, start + time_limit)

    def _solve(self, problem, indices, ends, deadline):
        """Returns the outcome and a point, as `decide`, from a program for each of some margins.

        Also returns the list of the indices that are not proved.
        """
        still_open = []
        for done, index in enumerate(indices):
            seconds = (deadline - time.monotonic()) / (len(indices) - done)
            outcome, point = self._outcome(problem, index, ends, seconds)
            if outcome == BROKEN:
                return outcome, point, []
            if outcome == INCONCLUSIVE:
                still_open.append(index)
        return INCONCLUSIVE if still_open else PROVED, None, still_open

    def _outcome(self, problem, margin, ends, time_limit, may_be_empty=False):
        """Returns the outcome and a point, as `decide`, of the program for one margin."""
        slopes, box = problem.margins[margin], _box(problem.region)
        highest, point = self._program.largest(slopes, ends, box, time_limit, may_be_empty)
        if highest < -problem.slack:
            return PROVED, None
        mistake = None if point is None else problem.find_mistake(point[None])
        return (INCONCLUSIVE, None) if mistake is None else (BROKEN, mistake)

    def _search(self, problem, indices, ends, deadline):
        """Returns the outcome and a point, as `decide`, of some margins, by splits."""
        waiting, heap, counter = roots(indices, ends), [], itertools.count()
        while waiting or heap:
            if time.monotonic() > deadline:
                return INCONCLUSIVE, None
            if not waiting:
                taken = [heapq.heappop(heap) for _ in range(min(self._batch_size, len(heap)))]
                waiting = self._split([domain for *_, domain in taken], problem.region)
                continue
            outcome, point, still_open = self._judged(waiting, problem)
            if outcome is not None:
                return outcome, point
            for bound, domain in still_open:
                heapq.heappush(heap, (-bound, next(counter), domain))
            waiting = []
        return PROVED, None

    def _judged(self, domains, problem):
        """Returns an outcome and its point, or `None` twice; and what is still open.

        What is open is a list of pairs of a bound and a domain, with the unit to split.
        """
        bounds, points, scores, slopes = self._bounds(domains, problem.margins, problem.region)
        # NaN proves nothing.
        open_rows = np.nonzero(~(bounds < -problem.slack))[0]
        mistake = problem.find_mistake(points[open_rows])
        if mistake is not None:
            return BROKEN, mistake, []
        found = []
        for row in open_rows:
            domain = domains[row]._replace(slopes=slopes[row].astype("float32"))
            unit = unit_to_split(domain, scores[row])
            if unit is not None:
                found.append((bounds[row], domain._replace(unit=unit)))
                continue
            # Without integers it is a linear program, which takes no time worth limiting.
            ends = domain.lower, domain.upper
            outcome, point = self._outcome(problem, domain.margin, ends, math.inf, True)
            if outcome != PROVED:
                return outcome, point, []
        return None, None, found

    def _intervals(self, inner):
        """Returns the lower and upper ends of the inputs of all ReLUs, `(rows, units)`."""
        boxes = [inner.boxes[node.inputs[0].number] for node in self._curves]
        count = len(inner.region.x)
        # A model without ReLUs has no parts.
        none = np.zeros((count, 0))
        return [
            np.concatenate([none, *(np.reshape(box[side], (count, -1)) for box in boxes)], axis=1)
            for side in (0, 1)
        ]

    def _split(self, domains, region):
        """Returns both parts of each domain, with tighter intervals behind the ReLU."""
        found = [part for domain in domains for part in split(domain)]
        # The intervals of the same layer, and of those before it, stay the same.
        later = [row for row, domain in enumerate(found) if domain.unit < self._starts[-2]]
        if later:
            ends = self._new_intervals([found[row] for row in later], region)
            for row, lower, upper in zip(later, *ends, strict=True):
                found[row] = found[row]._replace(lower=lower, upper=upper)
        # A domain whose intervals are empty has no inputs.
        return [domain for domain in found if not is_empty(domain)]

    def _new_intervals(self, domains, region):
        """Returns the lower and upper ends of the inputs of all ReLUs, computed anew."""
        padded = [domains[row] for row in padded_rows(len(domains), _LEAST_ROWS)]
        boxes = self._boxes(*stacked(padded, "lower", "upper"))
        sources = [node.inputs[0].number for node in self._curves]
        wide = InputRegion(*(ops.repeat(part, len(padded), axis=0) for part in region))
        inner = self._linear.inner_bounds(wide, known=dict(zip(sources, boxes, strict=True)))
        return [end[: len(domains)] for end in self._intervals(inner)]

    def _boxes(self, *arrays):
        """Returns the parts of arrays `(rows, units)` for each curve, as tensors."""
        parts = [np.split(array, self._starts[1:-1], axis=1) for array in arrays]
        return [
            tuple(ops.convert_to_tensor(part.reshape(-1, *node.shape)) for part in mine)
            for node, *mine in zip(self._curves, *parts, strict=True)
        ]

    def _bounds(self, domains, margins, region):
        """Returns bounds of domains, the points where they are reached, scores, and slopes."""
        padded = [domains[row] for row in padded_rows(len(domains), _LEAST_ROWS)]
        splits, lower, upper = stacked(padded, "splits", "lower", "upper")
        # NaN stands for slopes that are not known yet: two below and above, and a multiplier.
        unknown = np.full(3 * self._starts[-1], np.nan)
        start = np.stack([unknown if d.slopes is None else d.slopes for d in padded])
        start = ops.convert_to_tensor(start.astype("float64"))
        rows = ops.convert_to_tensor(margins[[domain.margin for domain in padded]])
        signs = [sign for (sign,) in self._boxes(splits)]
        found = self._bound(rows, self._boxes(lower, upper), signs, region, start)
        return tuple(np.asarray(part)[: len(domains)] for part in found)

    def _bound_domains(self, margins, boxes, signs, region, start):
        curves = [node.curve for node in self._curves]
        indices = {node.number: index for index, node in enumerate(self._curves)}
        packing = Packing(curves, boxes, signs)
        lines = [curve.lines(*box) for curve, box in zip(curves, boxes, strict=True)]
        start = ops.where(ops.isnan(start), packing.pack(lines), start)
        start = ops.clip(start, packing.least, packing.most)

        def affine(packed, seen):
            lines, multipliers = packing.lines(packed), packing.multipliers(packed)

            def add_before(node, slopes):
                seen[indices[node.number]] = slopes
                return multipliers[indices[node.number]]

            node = self._linear.logits
            slopes, offset = affine_bound(
                node, margins, lambda part: lines[indices[part.number]], add_before
            )
            return slopes, offset, lines

        def bound(packed):
            slopes, offset, _ = affine(packed, {})
            return offset + region.maximum(slopes, self._linear.norm)

        lowest, best = optimized(bound, packing, start, _NUM_ITERATIONS)
        seen = {}
        slopes, _, lines = affine(best, seen)
        points = region.maximizer(slopes, self._linear.norm)
        gaps = [
            _gap(seen[index], each, *box)
            for index, (each, box) in enumerate(zip(lines, boxes, strict=True))
        ]
        return lowest, points, ops.concatenate(gaps, axis=-1), best


def _gap(slopes, lines, lower, upper):
    """Returns by how much the line of each ReLU may be too high, `(rows, units)`."""
    above = ops.maximum(slopes, 0.0) * lines.upper_offset
    # The line below is too low by this much at an end of the interval.
    at_ends = ops.maximum(-lines.lower_slope * lower, (1.0 - lines.lower_slope) * upper)
    below = ops.maximum(-slopes, 0.0) * at_ends
    is_open = ops.logical_and(lower < 0.0, upper > 0.0)
    gap = ops.where(is_open, above + below, 0.0)
    return ops.reshape(gap, (ops.shape(gap)[0], -1))


def _box(region):
    """Returns the lower and upper ends of the region of one example, arrays."""
    return tuple(np.asarray(end)[0] for end in (region.lower, region.upper))
