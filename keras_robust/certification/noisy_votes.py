"""The votes of a classifier over noisy copies of inputs, counted in blocks of copies."""

import collections
import itertools
import typing

import numpy as np
from keras import ops

from keras_robust import backend

# Random numbers are drawn in blocks of this size, so that they do not depend on the batch size.
_BLOCK = 100
# The default batch: about as many input values as stay in the caches of a processor, but not more
# copies than make the overhead of a batch small.
_VALUES = 2**20
_MOST_COPIES = 2000
SELECTION, ESTIMATION = 0, 1


class _Block(typing.NamedTuple):
    """Copies that are drawn together, of which the first `size` count."""

    row: int
    stage: int
    seed: np.ndarray  # Of the row and the stage.
    number: int
    size: int


class NoisyVotes:
    """Counts the votes over noisy copies of each input by class, in batches of whole blocks.

    A batch may hold blocks of several inputs, so that all batches are of one size, and the compiled
    function is traced once. Each block has a seed of its own, made from the row of the input, the
    set of copies and the number of the block.

    Attributes: `votes`, a dict from `(row, set)` to the int64 votes by class; `cast`, a counter of
    the copies behind them.

    Args:
        classifier: `models.Classifier`.
        x: float32 array `(n, ...)`.
        stddev: float, the standard deviation of the noise.
        limits: pair of int, the numbers of copies in the sets `SELECTION` and `ESTIMATION`.
        seed: int.
        dtype: str or `None`, the compute dtype of the float32 layers.
    """

    def __init__(self, classifier, x, *, stddev, limits, seed, dtype=None):
        self.votes = collections.defaultdict(int)
        self.cast = collections.Counter()
        self._classifier = classifier
        self._x = x
        self._stddev = stddev
        self._limits = limits
        self._seed = ops.convert_to_tensor([seed, 0], "int32")
        self._dtype = dtype

    def run(self, rows, is_decided, batch_size=None):
        """Counts the votes for each row until `is_decided(row)`, or all its copies have voted.

        Args:
            rows: iterable of int.
            is_decided: function of a row, called between blocks. Blocks that were drawn before the
                counts are known are counted as well.
            batch_size: int, the copies in a forward pass, rounded to blocks; `None` for a size that
                suits a CPU.
        """
        if not len(self._x):
            return
        num_blocks = self._num_blocks(batch_size)
        compiled = backend.compile_function(self._count)
        blocks = self._blocks(rows, is_decided)
        waiting = None
        while batch := list(itertools.islice(blocks, num_blocks)):
            counts = compiled(*self._arguments(batch, num_blocks))
            # The device computes this batch while Python adds up the one before.
            self._add(waiting)
            waiting = batch, counts
        self._add(waiting)

    def selected(self, row):
        """Returns the class with most votes in the first set."""
        return int(np.argmax(self.votes[row, SELECTION]))

    def count(self, row):
        """Returns the number of votes that the selected class has in the second set."""
        votes = self.votes[row, ESTIMATION]
        return int(votes[self.selected(row)]) if self.cast[row, ESTIMATION] else 0

    def _num_blocks(self, batch_size):
        needed = sum(-(-limit // _BLOCK) for limit in self._limits) * len(self._x)
        if batch_size is None:
            batch_size = min(_VALUES // max(1, int(np.prod(self._x.shape[1:]))), _MOST_COPIES)
        return min(max(1, batch_size // _BLOCK), needed)

    def _blocks(self, rows, is_decided):
        for row in rows:
            own = backend.fold_in(self._seed, row)
            for stage, limit in enumerate(self._limits):
                # Each input has its own random numbers, and the two sets of copies are independent.
                seed = np.asarray(backend.fold_in(own, stage))
                for first in range(0, limit, _BLOCK):
                    if is_decided(row):
                        break
                    yield _Block(row, stage, seed, first // _BLOCK, min(_BLOCK, limit - first))

    def _arguments(self, batch, num_blocks):
        # A block without copies that count fills the last batch.
        batch = batch + (num_blocks - len(batch)) * [batch[-1]._replace(size=0)]
        x = self._x[[block.row for block in batch]]
        seeds = np.stack([block.seed for block in batch])
        numbers, sizes = [block.number for block in batch], [block.size for block in batch]
        integers = (ops.convert_to_tensor(own, "int32") for own in (seeds, numbers, sizes))
        return ops.convert_to_tensor(x, "float32"), *integers

    def _count(self, x, seeds, numbers, sizes):
        """Returns the votes of each block, int32 `(num_blocks, num_classes)`."""
        num_blocks, *shape = x.shape
        noise = backend.normal((num_blocks, _BLOCK, *shape), backend.fold_in(seeds, numbers))
        noise = ops.reshape(noise, (num_blocks, _BLOCK, *shape))
        copies = ops.expand_dims(x, 1) + self._stddev * noise
        copies = ops.reshape(copies, (num_blocks * _BLOCK, *shape))
        with self._classifier.dtype_scope(copies, self._dtype):
            logits = self._classifier.logits(copies)
        counted = ops.arange(_BLOCK, dtype="int32") < ops.expand_dims(sizes, -1)
        is_finite = ops.reshape(ops.all(ops.isfinite(logits), axis=-1), (num_blocks, _BLOCK))
        votes = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype="int32")
        votes = ops.reshape(votes, (num_blocks, _BLOCK, logits.shape[-1]))
        counted = ops.cast(ops.logical_and(counted, is_finite), "int32")
        return ops.sum(votes * ops.expand_dims(counted, -1), axis=1)

    def _add(self, waiting):
        if waiting is None:
            return
        batch, counts = waiting
        # Without the blocks that filled the batch.
        for block, votes in zip(batch, np.asarray(counts, "int64"), strict=False):
            self.votes[block.row, block.stage] += votes
            self.cast[block.row, block.stage] += block.size
