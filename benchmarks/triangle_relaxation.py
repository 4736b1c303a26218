"""The linear program over the triangle relaxation of a dense ReLU network."""

import numpy as np
import scipy.optimize
import scipy.sparse


def largest_margin(weights, x, epsilon, label):
    """Returns the upper bound of `max z_j - z_label` by linear programs, over a box within [0, 1].

    Each unit of a hidden layer is bounded by two linear programs over the layers before it, so that
    no bound by lines around each ReLU is lower, whatever the slopes.

    Args:
        weights: list of pairs `(kernel, bias)`; ReLU follows all but the last one.
        x: array `(features,)`.
        epsilon: float, the radius in Linf.
        label: int.
    """
    program = _Program(np.clip(x - epsilon, 0.0, 1.0), np.clip(x + epsilon, 0.0, 1.0))
    for kernel, bias in weights[:-1]:
        program.add_layer(kernel.astype("float64"), bias.astype("float64"))
    kernel, bias = (part.astype("float64") for part in weights[-1])
    others = np.delete(np.arange(len(bias)), label)
    return max(
        program.maximum(kernel[:, j] - kernel[:, label]) + bias[j] - bias[label] for j in others
    )


class _Program:
    """The constraints of the layers so far; the last variables are the outputs of the last layer.

    Args:
        lower, upper: arrays, the box of the inputs.
    """

    def __init__(self, lower, upper):
        self._boxes = [(lower, upper)]
        self._rows, self._limits = [], []

    def maximum(self, slopes):
        """Returns the maximum of `<slopes, h>`, where `h` are the outputs of the last layer."""
        lower, upper = (np.concatenate(ends) for ends in zip(*self._boxes, strict=True))
        goal = np.zeros(len(lower))
        goal[-len(slopes) :] = slopes
        if not self._rows:
            return float(np.sum(np.maximum(goal * lower, goal * upper)))
        size = len(lower)
        rows = scipy.sparse.vstack(
            [scipy.sparse.csr_array(_widened(row, start, size)) for row, start in self._rows]
        )
        found = scipy.optimize.linprog(
            -goal,
            A_ub=rows,
            b_ub=np.concatenate(self._limits),
            bounds=np.stack([lower, upper], axis=1),
            method="highs",
        )
        return -found.fun

    def add_layer(self, kernel, bias):
        """Adds a layer with ReLU, with the bounds of its units by linear programs."""
        # Interval bounds say which units are on one side of 0, for which no program is needed.
        low, high = self._boxes[-1]
        centre, reach = 0.5 * (low + high) @ kernel + bias, 0.5 * (high - low) @ np.abs(kernel)
        lower, upper = centre - reach, centre + reach
        for unit in np.nonzero((lower < 0.0) & (upper > 0.0))[0]:
            upper[unit] = self.maximum(kernel[:, unit]) + bias[unit]
            lower[unit] = bias[unit] - self.maximum(-kernel[:, unit])
        start = sum(len(part[0]) for part in self._boxes[:-1])
        # z <= h, and h <= slope * (z - lower) + relu(lower).
        open_units = (lower < 0.0) & (upper > 0.0)
        width = np.where(open_units, upper - lower, 1.0)
        slope = np.where(open_units, upper / width, np.where(lower >= 0.0, 1.0, 0.0))
        offset = np.where(open_units, -slope * lower, 0.0)
        identity = np.eye(len(bias))
        live = upper > 0.0
        self._rows.append((np.hstack([kernel.T, -identity])[live], start))
        self._limits.append(-bias[live])
        self._rows.append((np.hstack([-slope[:, None] * kernel.T, identity])[live], start))
        self._limits.append((slope * bias + offset)[live])
        self._boxes.append((np.maximum(lower, 0.0), np.maximum(upper, 0.0)))


def _widened(row, start, size):
    return np.pad(row, ((0, 0), (start, size - start - row.shape[1])))
