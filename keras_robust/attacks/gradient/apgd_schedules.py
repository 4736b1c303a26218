"""The two step schedules of APGD: dense steps with momentum, and sparse steps."""

import typing

import numpy as np
from keras import ops

from keras_robust.threat_models.threat_model import flatten

# The constants are those of the authors' code.
_MOMENTUM = 0.75
_SHARE = 0.75  # The share of the steps between checkpoints that must raise the loss.
_FIRST_SHARE = 0.2  # The share of the coordinates that the first sparse step moves.
_SHRINK = 1.5
_SMALLEST = 0.1
_STILL_AS_MANY = 0.95


class _Halving(typing.NamedTuple):
    """The memory of `HalvingSchedule`, with one entry per example."""

    step: object  # As a multiple of the radius.
    rises: object  # Steps since the last checkpoint that raised the loss.
    best_then: object  # The best loss at the last checkpoint.
    halved_then: object


class HalvingSchedule:
    """Dense steps with momentum, halved when the loss stops rising, for `Linf` and `L2`.

    At a checkpoint the step of an example is halved if its loss rose in at most 3 of 4 steps since
    the last checkpoint. It is also halved if it was not halved at the last checkpoint and the best
    loss has not changed since. After a halving the search continues from the best point.

    Args:
        threat_model: a `ThreatModel`.
        x: float tensor `(batch_size, ...)`, the clean examples.
        num_steps: int.
        is_new: bool, whether the search is new, or continues from the best point of another one.
    """

    def __init__(self, threat_model, x, num_steps, is_new=True):
        self.threat_model = threat_model
        self.x = x
        lengths = checkpoint_intervals(num_steps)
        self._length = np.zeros(num_steps, "float32")
        self._length[np.cumsum(lengths) - 1] = lengths

    def first(self, start, loss):
        """Returns the memory before the first step."""
        zero = ops.zeros_like(loss)
        return _Halving(zero + 2.0, zero, loss, ops.ones_like(loss, dtype="bool"))

    def move(self, memory, x, x_before, gradient, index):
        """Returns the next point."""
        ball = self.threat_model
        ahead = ball.step(x, gradient, ball.relative_step(memory.step, x))
        ahead = ball.project(ahead, self.x)
        # The first step has no previous step, and so no momentum.
        is_first = ops.cast(ops.equal(index, 0), "float32")
        share = _MOMENTUM + (1.0 - _MOMENTUM) * is_first
        return ball.project(x + share * (ahead - x) + (1.0 - share) * (x - x_before), self.x)

    def adapt(self, memory, index, rose, best_loss, best_x):
        """Returns the new memory, and which examples go back to their best point."""
        length = ops.take(ops.convert_to_tensor(self._length), index)
        rises = memory.rises + ops.cast(rose, "float32")
        stuck = ops.logical_and(ops.logical_not(memory.halved_then), memory.best_then >= best_loss)
        at_checkpoint = length > 0.0
        halves = ops.logical_and(at_checkpoint, ops.logical_or(rises <= _SHARE * length, stuck))
        adapted = _Halving(
            step=ops.where(halves, 0.5 * memory.step, memory.step),
            rises=ops.where(at_checkpoint, 0.0, rises),
            best_then=ops.where(at_checkpoint, best_loss, memory.best_then),
            halved_then=ops.where(at_checkpoint, halves, memory.halved_then),
        )
        return adapted, halves


class _Shrinking(typing.NamedTuple):
    """The memory of `SparseSchedule`, with one entry per example."""

    step: object  # As a multiple of the radius.
    share: object  # The share of the coordinates that a step moves.
    changed_then: object  # How many coordinates the best point had changed at the last checkpoint.


class SparseSchedule:
    """Steps along ever fewer of the largest coordinates of the gradient, for `L1`.

    At a checkpoint the share of moved coordinates is set to the share that the best point has
    changed, divided by 1.5. If that number fell below 95% of its previous value, the step size is
    reset and the search returns to the best point. Otherwise the step size is divided by 1.5, down
    to a tenth of the radius.

    Args:
        threat_model: a `ThreatModel`.
        x: float tensor `(batch_size, ...)`, the clean examples.
        num_steps: int.
        is_new: bool, whether the search is new, or continues from the best point of another one.
    """

    def __init__(self, threat_model, x, num_steps, is_new=True):
        self.threat_model = threat_model
        self.x = x
        self._is_new = is_new
        self._features = int(np.prod(x.shape[1:]))
        every = max(int(0.04 * num_steps), 1)
        self._is_checkpoint = (np.arange(num_steps) + 1) % every == 0

    def first(self, start, loss):
        """Returns the memory before the first step."""
        one = ops.ones_like(loss)
        if self._is_new:
            return _Shrinking(one, _FIRST_SHARE * one, self._features * one)
        changed = self._changed(start)
        return _Shrinking(one, changed / self._features / _SHRINK, changed)

    def move(self, memory, x, x_before, gradient, index):
        """Returns the next point."""
        size = flatten(ops.abs(gradient))
        place = ops.clip((1.0 - memory.share) * self._features, 0, self._features - 1)
        place = ops.expand_dims(ops.cast(place, "int32"), -1)
        # The gradient at this rank separates the moved coordinates from the others.
        lowest = ops.take_along_axis(ops.sort(size, axis=-1), place, axis=-1)
        sign = ops.where(size >= lowest, ops.sign(flatten(gradient)), 0.0)
        count = ops.maximum(ops.sum(ops.abs(sign), axis=-1), 1.0)
        step = self.threat_model.relative_step(memory.step / count, x)
        return self.threat_model.project(x + step * ops.reshape(sign, ops.shape(x)), self.x)

    def adapt(self, memory, index, rose, best_loss, best_x):
        """Returns the new memory, and which examples go back to their best point."""
        changed = self._changed(best_x)
        at_checkpoint = ops.take(ops.convert_to_tensor(self._is_checkpoint), index)
        fewer = ops.logical_and(at_checkpoint, changed < _STILL_AS_MANY * memory.changed_then)
        smaller = ops.maximum(memory.step / _SHRINK, _SMALLEST)
        share = changed / self._features / _SHRINK
        adapted = _Shrinking(
            step=ops.where(fewer, 1.0, ops.where(at_checkpoint, smaller, memory.step)),
            share=ops.where(at_checkpoint, share, memory.share),
            changed_then=ops.where(at_checkpoint, changed, memory.changed_then),
        )
        return adapted, fewer

    def _changed(self, x):
        return ops.sum(ops.cast(flatten(ops.not_equal(x, self.x)), "float32"), axis=-1)


def checkpoint_intervals(num_steps):
    """Returns the numbers of steps between checkpoints.

    For 100 steps there are checkpoints after 22, 41, 57, 70, 80, 87, 93 and 99 steps.
    """
    length = max(int(0.22 * num_steps), 1)
    shortest, shrink = max(int(0.06 * num_steps), 1), max(int(0.03 * num_steps), 1)
    lengths, done = [], 0
    while done + length <= num_steps:
        lengths.append(length)
        done += length
        length = max(length - shrink, shortest)
    return lengths
