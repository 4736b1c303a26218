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
# Added to each bound, relative to its size: HiGHS lets constraints be violated by 1e-7.
_TOLERANCE = 1e-6
_ROWS_AT_A_TIME = 256


class ReluProgram:
    """Bounds the inputs of ReLUs and the logits by mixed-integer programs.

    The variables are the input `x` in its box, the output `a` of each ReLU, and `d`, 1 where a ReLU
    whose input may have either sign is active, and 0 where it is not. If the input `z` lies in
    `[l, u]`, the ReLU is `a >= z`, `a >= 0`, `a <= z - l (1 - d)` and `a <= u d` (Tjeng et al.,
    2019). The inputs `z` and the logits are affine functions of `x` and `a`.

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

    def largest(self, slopes, ends, box, time_limit):
        """Returns an upper bound of `<slopes, logits>`, and a point where it is high.

        Args:
            slopes: array `(logits,)`.
            ends: pair of arrays `(units,)`, the intervals of the inputs of all ReLUs. Only inputs
                of the box count for which a ReLU with an end of 0 has an input of that sign.
            box: pair of arrays, the lower and upper ends of the inputs of the model.
            time_limit: float, seconds.

        Returns:
            The bound, `-inf` if no input has these signs; and an array, or `None`.
        """
        kernel, offset = self._logits
        constraints = self._constraints(self._num_units, ends, box)
        bound, found = _maximize(slopes @ kernel, constraints, time_limit)
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
            constraints = self._constraints(first, ends, box)
            units = first + np.nonzero((lower[first:last] < 0.0) & (upper[first:last] > 0.0))[0]
            units = units[np.argsort(-scores[units], kind="stable")]
            for done, unit in enumerate(units):
                seconds = (deadline - time.monotonic()) / (len(units) - done)
                if seconds <= 0.0:
                    return ends
                self._tighten(unit, ends, constraints, seconds)
        return ends

    def _tighten(self, unit, ends, constraints, time_limit):
        """Moves the ends of the interval of one unit; the second only if it has both signs then."""
        lower, upper = ends
        # The end that is nearer to 0 is more likely to give the unit a sign.
        sides = (1, -1) if upper[unit] < -lower[unit] else (-1, 1)
        for sign in sides:
            if not lower[unit] < 0.0 < upper[unit]:
                return
            bound, _ = _maximize(sign * self._inputs[[unit]], constraints, time_limit, _GAP)
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

    def _constraints(self, count, ends, box):
        """Returns the arguments of `milp` for the input and the first `count` units."""
        lower, upper = (end[:count] for end in ends)
        # Rounding may cross the ends of a very short interval.
        reach = np.maximum(lower, 0.0), np.maximum(np.maximum(lower, upper), 0.0)
        # The units after the first ones take no part: their outputs are 0.
        rest = np.zeros(self._num_units - count)
        is_unknown = (lower < 0.0) & (upper > 0.0)
        integers = np.zeros(is_unknown.sum())
        least, most = (
            np.concatenate([np.ravel(end), each, rest, choices])
            for end, each, choices in zip(box, reach, (integers, integers + 1.0), strict=True)
        )
        return {
            "constraints": self._rows(lower, upper, is_unknown),
            "bounds": scipy.optimize.Bounds(least, most),
            "integrality": np.arange(len(least)) >= self._inputs.shape[1],
        }

    def _rows(self, lower, upper, is_unknown):
        """Returns the constraints between the inputs and the outputs of the first units."""
        count, width = len(lower), self._inputs.shape[1]
        outputs = scipy.sparse.eye_array(count, width, k=self._num_inputs, format="csr")
        inputs, offsets = self._inputs[:count], self._offsets[:count]
        gaps = outputs - inputs
        (unknown,), (active,) = np.nonzero(is_unknown), np.nonzero(lower >= 0.0)
        # All others have negative inputs in the whole box, and need no constraint.
        (split,) = np.nonzero((upper == 0.0) & (lower < 0.0))
        low, high = lower[unknown], upper[unknown]
        none = np.zeros(len(unknown))
        infinite = none + np.inf
        blocks = [
            (gaps[unknown], none, offsets[unknown], infinite),
            (gaps[unknown], -low, -infinite, offsets[unknown] - low),
            (outputs[unknown], -high, -infinite, none),
            (gaps[active], None, offsets[active], offsets[active]),
            (inputs[split], None, np.full(len(split), -np.inf), -offsets[split]),
        ]
        kernels, choices, least, most = zip(*blocks, strict=True)
        diagonals = [part if part is None else scipy.sparse.diags_array(part) for part in choices]
        kernel = scipy.sparse.block_array(list(zip(kernels, diagonals, strict=True)), format="csc")
        return scipy.optimize.LinearConstraint(kernel, np.concatenate(least), np.concatenate(most))


def _maximize(goal, constraints, time_limit, gap=0.0):
    """Returns an upper bound of `<goal, v>` over the variables `v`, and the best `v`, or `None`."""
    size = len(constraints["integrality"])
    costs = np.zeros(size)
    dense = goal.toarray() if scipy.sparse.issparse(goal) else goal
    costs[: dense.size] = -np.ravel(dense)
    options = {"time_limit": max(time_limit, 0.0), "mip_rel_gap": gap}
    found = scipy.optimize.milp(costs, options=options, **constraints)
    if found.status == _INFEASIBLE:
        return -np.inf, None
    if constraints["integrality"].any():
        bound = found.mip_dual_bound
    else:
        bound = found.fun if found.success else None
    bound = np.inf if bound is None else -bound
    return bound + _TOLERANCE * (1.0 + abs(bound)), found.x
