"""Finds the pair of features with the largest saliency, without a matrix of all pairs."""

from keras import ops

from keras_robust import backend

_TINY = 1e-30


def best_pair(first, second, usable, left):
    """Returns the pair `p != q` with the largest `(a_p + a_q) (b_p + b_q)`, both factors > 0.

    Args:
        first: float tensor `(batch_size, size)`, the `a`.
        second: float tensor like `first`, the `b`.
        usable: bool tensor like `first`, the features to choose from.
        left: float tensor `(batch_size,)`, how many features may be chosen. Below 2 the result is
            one feature, `p = q`; below 1 it is none.

    Returns:
        A bool tensor like `usable`, true for the pair, and a bool tensor `(batch_size,)`, whether
        there is a pair.
    """
    size = usable.shape[-1]
    # Scale both to a maximum of 1, so that no product underflows. Minus infinity excludes a feature
    # from all pairs.
    first, second = (part / ops.maximum(_peak(part), _TINY) for part in (first, second))
    first = ops.where(usable, first, -float("inf"))

    def scores(shift):
        one = first + ops.roll(first, -shift, axis=-1)
        other = second + ops.roll(second, -shift, axis=-1)
        allowed = ops.logical_and(one > 0.0, other > 0.0)
        return ops.where(allowed, one * other, 0.0)

    def compare(shift, best):
        found = scores(shift)
        place = ops.cast(ops.argmax(found, axis=-1), "int32")
        score = ops.max(found, axis=-1)
        strongest = ops.logical_and(score > best[0], left >= 2.0)
        partner = ops.mod(place + shift, size)
        return tuple(
            ops.where(strongest, new, old)
            for new, old in zip((score, place, partner), best, strict=True)
        )

    alone = ops.where(ops.expand_dims(ops.logical_and(left >= 1.0, left < 2.0), -1), scores(0), 0.0)
    place = ops.cast(ops.argmax(alone, axis=-1), "int32")
    best = (ops.max(alone, axis=-1), place, place)
    # The shifts `s` and `size - s` compare the same pairs, so half of the shifts reach every pair.
    score, place, partner = backend.fori_loop(1, size // 2 + 1, compare, best)
    both = ops.logical_or(*(ops.one_hot(one, size, dtype="bool") for one in (place, partner)))
    exists = score > 0.0
    return ops.logical_and(both, ops.expand_dims(exists, -1)), exists


def _peak(values):
    return ops.max(ops.abs(values), axis=-1, keepdims=True)
