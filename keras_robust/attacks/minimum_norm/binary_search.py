"""The search for the smallest weight of the loss that changes the class, for each example."""

import typing

from keras import ops

from keras_robust import backend
from keras_robust.attacks.result import select

_GROWTH = 10.0


class WeightTrial(typing.NamedTuple):
    """What one weight led to, one entry per example.

    `hits` says whether a mistake was found; only then are `x_adv` and its `size` read.
    """

    x_adv: object
    size: object
    hits: object
    queries: object


class Search(typing.NamedTuple):
    """How far the search is, one entry per example."""

    weight: object
    failed: object  # The largest weight that was too small.
    worked: object  # The smallest weight that was enough, infinity before there is one.
    tries: object
    halvings: object
    x_adv: object
    size: object  # Of the smallest perturbation so far, infinity before there is one.
    done: object
    queries: object


def smallest(attempt, x, initial_weight, *, done, ends):
    """Returns the last `Search`, with the smallest perturbation that any weight led to.

    The weight grows tenfold until one is enough, and is then bisected towards the smallest one.

    Args:
        attempt: callable `Search -> Tried`, which may leave out the examples that are done.
        x: float tensor `(batch_size, ...)`.
        initial_weight: float > 0.
        done: bool tensor `(batch_size,)`, examples that are left as they are.
        ends: callable `Search -> (batch_size,)`, bool, which examples need no further weight.
    """

    def body(search):
        return (_narrow(search, attempt(search), ends),)

    zero = ops.zeros(ops.shape(x)[:1], "float32")
    never, count = zero + float("inf"), ops.cast(zero, "int32")
    first = Search(zero + initial_weight, zero, never, count, count, x, never, done, count)
    (last,) = backend.while_loop(
        lambda search: ops.logical_not(ops.all(search.done)), body, (first,)
    )
    return last


def squared_length(delta):
    """Returns the squared Euclidean norm of each example, shape `(batch_size,)`."""
    return ops.sum(ops.square(delta), axis=tuple(range(1, len(delta.shape))))


def _narrow(search, tried, ends):
    """Takes in what the weight led to, and chooses the next one."""
    hits = tried.hits & ~search.done
    closer = hits & (tried.size < search.size)
    failed = ops.where(hits, search.failed, search.weight)
    worked = ops.where(hits, search.weight, search.worked)
    found = ops.isfinite(worked)
    search = Search(
        weight=ops.where(found, 0.5 * (failed + worked), _GROWTH * search.weight),
        failed=failed,
        worked=worked,
        tries=search.tries + 1,
        halvings=search.halvings + ops.cast(ops.isfinite(search.worked), "int32"),
        x_adv=select(closer, tried.x_adv, search.x_adv),
        size=ops.where(closer, tried.size, search.size),
        done=search.done,
        queries=search.queries + ops.where(search.done, 0, tried.queries),
    )
    return search._replace(done=search.done | ends(search))
