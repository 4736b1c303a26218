"""Reads the batches of a data set that may be infinite."""

import itertools

import keras

# Data of unknown length that exceed these limits may be infinite, and would fill the memory.
_MAX_EXAMPLES = 30_000
_MAX_BYTES = 2**31

_CUT = "Give `num_examples`, or cut the data, as `dataset.take(100)` does."


def read_batches(data, parse, num_examples=None):
    """Yields the batches that hold the first `num_examples` examples, or all batches for `None`.

    Args:
        data: iterable of batches.
        parse: function from a batch to a pair of structures of arrays, inputs and labels.
        num_examples: int or `None`.

    Raises:
        ValueError: if `num_examples` is `None` and the data are known to be infinite (nothing is
            read then), or have an unknown length and exceed 30,000 examples or 2 GiB.
    """
    expected, count, size = _count_batches(data), 0, 0
    if expected == float("inf") and num_examples is None:
        raise ValueError(
            f"The data have no end, and all would be read. {_CUT} Received: an endless "
            f"{type(data).__name__} and num_examples=None"
        )
    # Many Keras data sets yield batches beyond their last one too.
    is_cut = isinstance(data, keras.utils.PyDataset) and expected != float("inf")
    for index, batch in enumerate(itertools.islice(data, expected if is_cut else None)):
        x, y = parse(batch)
        yield x, y
        count += len(y)
        size += sum(leaf.nbytes for leaf in keras.tree.flatten((x, y)))
        if num_examples is None:
            if index >= expected:
                _check_limits(data, max(index, count), count, size)
        elif count >= num_examples:
            return


def _check_limits(data, length, count, size):
    """Raises ValueError if data of unknown length exceed the limits.

    Args:
        data: iterable of batches.
        length: int, the larger of the numbers of batches and of examples, because a batch may be
            empty.
        count: int, the examples read so far.
        size: int, their bytes.
    """
    if length > _MAX_EXAMPLES or size > _MAX_BYTES:
        raise ValueError(
            "The length of the data is not known, and they may have no end. Without "
            f"`num_examples`, at most {_MAX_EXAMPLES} examples or {_MAX_BYTES >> 30} GiB are read. "
            f"{_CUT} `num_examples` may exceed the number of examples. Received: {count} examples "
            f"so far from an object of type {type(data).__name__}"
        )


def _count_batches(data):
    """Returns the number of batches: 0 if it is unknown, infinity if the data are infinite."""
    if isinstance(data, keras.utils.PyDataset):
        return float("inf") if data.num_batches is None else data.num_batches
    cardinality = getattr(data, "cardinality", None)
    if cardinality is not None:  # A `tf.data.Dataset` returns -1 for infinite and -2 for unknown.
        number = int(cardinality() if callable(cardinality) else cardinality)
        return float("inf") if number == -1 else max(number, 0)
    return len(data) if hasattr(data, "__len__") else 0
