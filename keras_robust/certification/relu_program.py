"""A ReLU network over a box as a mixed-integer linear program, solved by HiGHS."""

import math
import time

import numpy as np
import scipy.optimize
import scipy.sparse
from keras import ops

from keras_robust.certification.backward_bounds import affine_parts

_INFEASIBLE = 2  # A status of `milp`.
# A bound within this share of the optimum is near enough for an interval.
_GAP = 0.02
# HiGHS accepts reduced costs of 1e-7, and drops branches that gain less than 1e-6. Scaled variables
# have a range of 2.
_REDUCED_COST, _CUTOFF = 2e-7, 1e-6
_ROWS_AT_A_TIME = 256


class ReluProgram:
    """Bounds the inputs of ReLUs and the logits by mixed-integer programs.

    The variables are the input `x` in its box, the output `a` of each ReLU, and `d`, 1 where a ReLU
    whose input may have either sign is active, and 0 where it is not. If the input `z` lies in
    `[l, u]`, the ReLU is `a >= z`, `a >= 0`, `a <= z - l (1 - d)` and `a <= u d` (Tjeng et al.,
    2019). The inputs `z` and the logits are affine functions of `x` and `a`.

    HiGHS computes with absolute tolerances. So the variables are scaled to ranges of 1, the rows by
    the intervals, and the goal to costs of at most 1. What the tolerances may hide is added to each
    bound: of the largest cost, 1e-6 and 2e-7 for each variable.

    Args:
        linear: `LinearBounds` of a model whose activations are all ReLU.
    """

    def __init__(self, linear):
        source = linear.nodes[0]
        curves = [node for node in linear.nodes if node.curve is not None]
        sizes = [math.prod(node.shape) for node in (source, *curves)]
        self._num_inputs, self._num_units = sizes[0], sum(sizes[1:])
        # Where the units of each curve start, and the columns of each node.
        self._starts = np.cumsum([0, *sizes[1:]])
        columns = np.cumsum([0, *sizes])
        numbers = [source.number, *(node.number for node in curves)]
        self._columns = dict(zip(numbers, columns[:-1], strict=True))
        inputs = [self._affine(node.inputs[0]) for node in curves]
        kernels, offsets = zip(*inputs, strict=True) if inputs else ((), ())
        empty = scipy.sparse.csr_array((0, columns[-1]))
        self._inputs = scipy.sparse.vstack([empty, *kernels], format="csr")
        self._offsets = np.concatenate([[], *offsets])
        self._logits = self._affine(linear.logits)

    def largest(self, slopes, ends, box, time_limit, may_be_empty=False):
        """Returns an upper bound of `<slopes, logits>`, and a point where it is high.

        Args:
            slopes: array `(logits,)`.
            ends: pair of arrays `(units,)`, the intervals of the inputs of all ReLUs. Only inputs
                of the box count for which a ReLU with an end of 0 has an input of that sign.
            box: pair of arrays, the lower and upper ends of the inputs of the model.
            time_limit: float, seconds.
            may_be_empty: bool, whether it is possible that no input has these signs. The bound is
                `-inf` then. Defaults to `False`.

        Returns:
            The bound; and an array, or `None`.
        """
        kernel, offset = self._logits
        program = self._program(self._num_units, ends, box)
        bound, found = program.maximize(slopes @ kernel, time_limit, may_be_empty=may_be_empty)
        point = None if found is None else found[: self._num_inputs].reshape(np.shape(box[0]))
        return bound + slopes @ offset, point

    def tightened(self, ends, box, scores, deadline):
        """Returns the intervals of the inputs of all ReLUs, tighter as far as time allows.

        The first ReLUs keep their intervals. Of later ones, each end is the bound of a program, if
        the interval contains both signs.

        Args:
            ends: pair of arrays `(units,)`.
            box: pair of arrays, the lower and upper ends of the inputs of the model.
            scores: array `(units,)`. Units with higher scores come first in their layer.
            deadline: float, the `time.monotonic()` at which to stop.
        """
        ends = lower, upper = tuple(end.copy() for end in ends)
        for first, last in zip(self._starts[1:-1], self._starts[2:], strict=True):
            program = self._program(first, ends, box)
            units = first + np.nonzero((lower[first:last] < 0.0) & (upper[first:last] > 0.0))[0]
            units = units[np.argsort(-scores[units], kind="stable")]
            for done, unit in enumerate(units):
                seconds = (deadline - time.monotonic()) / (len(units) - done)
                if seconds <= 0.0:
                    return ends
                self._tighten(unit, ends, program, seconds)
        return ends

    def _tighten(self, unit, ends, program, time_limit):
        """Moves the ends of the interval of one unit; the second only if it has both signs then."""
        lower, upper = ends
        # The end that is nearer to 0 is more likely to give the unit a sign.
        sides = (1, -1) if upper[unit] < -lower[unit] else (-1, 1)
        for sign in sides:
            if not lower[unit] < 0.0 < upper[unit]:
                return
            bound, _ = program.maximize(sign * self._inputs[[unit]], time_limit, gap=_GAP)
            bound += sign * self._offsets[unit]
            if sign > 0:
                upper[unit] = max(min(upper[unit], bound), lower[unit])
            else:
                lower[unit] = min(max(lower[unit], -bound), upper[unit])

    def _affine(self, node):
        """Returns the kernel and the offset of a node as a function of inputs and ReLU outputs."""
        size, kernels, offsets = math.prod(node.shape), [], []
        for start in range(0, size, _ROWS_AT_A_TIME):
            rows = np.eye(min(_ROWS_AT_A_TIME, size - start), size, start)
            rows = ops.convert_to_tensor(rows.reshape(-1, *node.shape))
            parts, offset = affine_parts(node, rows)
            kernel = np.zeros((len(rows), self._num_inputs + self._num_units))
            for number, part in parts.items():
                part = np.reshape(part, (len(rows), -1))
                first = self._columns[number]
                kernel[:, first : first + part.shape[1]] = part
            kernels.append(scipy.sparse.csr_array(kernel))
            offsets.append(np.broadcast_to(offset, len(rows)))
        return scipy.sparse.vstack(kernels, format="csr"), np.concatenate(offsets)

    def _program(self, count, ends, box):
        """Returns the `_Program` of the input and the first `count` units."""
        lower, upper = (end[:count] for end in ends)
        # Rounding may cross the ends of a very short interval.
        upper = np.maximum(lower, upper)
        low, high = (np.ravel(end).astype("float64") for end in box)
        # The units after the first ones take no part: their outputs are 0.
        rest = np.zeros(self._num_units - count)
        is_unknown = (lower < 0.0) & (upper > 0.0)
        least = np.concatenate([low, np.maximum(lower, 0.0), rest])
        most = np.concatenate([high, np.maximum(upper, 0.0), rest])
        rows = self._rows(lower, upper, is_unknown)
        return _Program(least, most, rows, num_integers=is_unknown.sum())

    def _rows(self, lower, upper, is_unknown):
        """Returns the constraints between the inputs and the outputs of the first units.

        Returns:
            Kernels of the variables and of the integers, and the ends between which they lie.
        """
        count, width = len(lower), self._inputs.shape[1]
        outputs = scipy.sparse.eye_array(count, width, k=self._num_inputs, format="csr")
        inputs, offsets = self._inputs[:count], self._offsets[:count]
        gaps = outputs - inputs
        (unknown,), (active,) = np.nonzero(is_unknown), np.nonzero(lower >= 0.0)
        # All others have negative inputs in the whole box, and need no constraint.
        (split,) = np.nonzero((upper == 0.0) & (lower < 0.0))
        low, high = lower[unknown], upper[unknown]
        infinite = np.full(len(unknown), np.inf)
        choices = scipy.sparse.eye_array(len(unknown), format="csr")
        others = scipy.sparse.csr_array((len(active) + len(split), len(unknown)))
        kernel = [gaps[unknown], gaps[unknown], outputs[unknown], gaps[active], inputs[split]]
        integers = [0.0 * choices, _scaled(choices, -low), _scaled(choices, -high), others]
        least = [
            offsets[unknown],
            -infinite,
            -infinite,
            offsets[active],
            np.full(len(split), -np.inf),
        ]
        most = [infinite, offsets[unknown] - low, 0.0 * high, offsets[active], -offsets[split]]
        # Each row in units of the interval of its ReLU.
        units = np.concatenate([unknown, unknown, unknown, active, split])
        sizes = np.maximum(np.abs(lower), np.abs(upper))[units]
        factors = 1.0 / np.where(sizes > 0.0, sizes, 1.0)
        return (
            _scaled(scipy.sparse.vstack(kernel, format="csr"), factors),
            _scaled(scipy.sparse.vstack(integers, format="csr"), factors),
            factors * np.concatenate(least),
            factors * np.concatenate(most),
        )


class _Program:
    """A mixed-integer program, scaled: `v = middle + reach w`, with `w` in [-1, 1].

    Args:
        least, most: arrays, the ends of the variables `v`.
        rows: kernels of the variables and of the integers, and the least and most of their sum.
        num_integers: int, the number of variables that are 0 or 1.
    """

    def __init__(self, least, most, rows, num_integers):
        kernel, integers, low, high = rows
        self._middle, self._reach = 0.5 * (least + most), 0.5 * (most - least)
        scaled = kernel @ scipy.sparse.diags_array(self._reach)
        at_middle = kernel @ self._middle
        one, none = np.ones(len(least)), np.zeros(num_integers)
        self._arguments = {
            "constraints": scipy.optimize.LinearConstraint(
                scipy.sparse.hstack([scaled, integers], format="csc"),
                low - at_middle,
                high - at_middle,
            ),
            "bounds": scipy.optimize.Bounds(
                np.concatenate([-one, none]), np.concatenate([one, none + 1.0])
            ),
            "integrality": np.concatenate([0.0 * one, none + 1.0]),
        }

    def maximize(self, goal, time_limit, *, gap=0.0, may_be_empty=False):
        """Returns an upper bound of `<goal, v>`, and the best `v`, or `None`."""
        dense = np.ravel(goal.toarray() if scipy.sparse.issparse(goal) else goal)
        costs = dense * self._reach
        largest = np.max(np.abs(costs), initial=0.0)
        size = largest if largest > 0.0 else 1.0
        integers = np.zeros(len(self._arguments["integrality"]) - len(costs))
        found = scipy.optimize.milp(
            np.concatenate([-costs / size, integers]),
            options={"time_limit": max(time_limit, 0.0), "mip_rel_gap": gap},
            **self._arguments,
        )
        if found.status == _INFEASIBLE:
            # Where an input exists, this is a numerical failure, and no bound.
            return -np.inf if may_be_empty else np.inf, None
        if len(integers):
            bound = found.mip_dual_bound
        else:
            bound = found.fun if found.success else None
        margin = _CUTOFF + _REDUCED_COST * len(self._arguments["integrality"])
        bound = np.inf if bound is None else margin - bound
        point = None if found.x is None else self._middle + self._reach * found.x[: len(costs)]
        return size * bound + dense @ self._middle, point


def _scaled(kernel, factors):
    return scipy.sparse.diags_array(factors) @ kernel
