"""The batches of a data set, which may have no end."""

import itertools

import keras

# Data of unknown length that give more than this may have no end; memory would have.
_MAX_EXAMPLES = 30_000
_MAX_BYTES = 2**31

_CUT = "Give `num_examples`, or cut the data, as `dataset.take(100)` does."


def read_batches(data, parse, num_examples=None):
    """Yields the batches that hold the first `num_examples` examples, all for `None`.

    Args:
        data: iterable of batches.
        parse: function from a batch to a pair of structures of arrays, inputs and labels.
        num_examples: int or `None`.

    Raises:
        ValueError: without `num_examples`, for data that are known to have no end, before anything
            is read, and for data of unknown length that give more than 30,000 examples or 2 GiB.
    """
    expected, count, size = _count_batches(data), 0, 0
    if expected == float("inf") and num_examples is None:
        raise ValueError(
            f"The data have no end, and all would be read. {_CUT} "
            f"Received: an endless {type(data).__name__} and num_examples=None"
        )
    # Many a Keras data set gives batches after the last too.
    is_cut = isinstance(data, keras.utils.PyDataset) and expected != float("inf")
    for index, batch in enumerate(itertools.islice(data, expected if is_cut else None)):
        x, y = parse(batch)
        yield x, y
        count += len(y)
        size += sum(leaf.nbytes for leaf in keras.tree.flatten((x, y)))
        if num_examples is not None:
            if count >= num_examples:
                return
        elif index >= expected and (max(index, count) > _MAX_EXAMPLES or size > _MAX_BYTES):
            raise ValueError(
                "The length of the data is not known, and they may have no end: more than "
                f"{_MAX_EXAMPLES} examples, or {_MAX_BYTES >> 30} GiB, are read only if you say "
                f"how many. {_CUT} `num_examples` may be more than there are. Received: "
                f"{count} examples so far from an object of type {type(data).__name__}"
            )


def _count_batches(data):
    """Returns how many batches there are: 0 if nobody knows, infinity if there is no end."""
    if isinstance(data, keras.utils.PyDataset):
        return float("inf") if data.num_batches is None else data.num_batches
    cardinality = getattr(data, "cardinality", None)
    if cardinality is not None:  # A `tf.data.Dataset`: -1 is endless, -2 unknown.
        number = int(cardinality() if callable(cardinality) else cardinality)
        return float("inf") if number == -1 else max(number, 0)
    return len(data) if hasattr(data, "__len__") else 0
