"""Searches, per example, the smallest weight of the loss that changes the class."""

import typing

from keras import ops

from keras_robust import backend
from keras_robust.attacks.result import select

_GROWTH = 10.0


class WeightTrial(typing.NamedTuple):
    """The result of one weight, with one entry per example.

    `hits` is true where a mistake was found. Only there `x_adv` and its `size` are used.
    """

    x_adv: object
    size: object
    hits: object
    queries: object


class Search(typing.NamedTuple):
    """The state of the search, with one entry per example."""

    weight: object
    failed: object  # The largest weight so far that was too small.
    worked: object  # The smallest weight so far that was enough, infinity without one.
    tries: object
    halvings: object
    x_adv: object
    size: object  # The size of the smallest perturbation so far, infinity without one.
    done: object
    queries: object


def smallest(attempt, x, initial_weight, *, done, ends):
    """Returns the last `Search`, which holds the smallest perturbation of all weights.

    The weight grows tenfold until it is large enough. A bisection then approaches the smallest such
    weight.

    Args:
        attempt: callable `Search -> WeightTrial`, which may skip the examples that are done.
        x: float tensor `(batch_size, ...)`.
        initial_weight: float > 0.
        done: bool tensor `(batch_size,)`, the examples to return unchanged.
        ends: callable from a `Search` to bool `(batch_size,)`, the examples that need no further
            weight.
    """

    def body(search):
        return (_update(search, attempt(search), ends),)

    zero = ops.zeros(ops.shape(x)[:1], "float32")
    infinity, count = zero + float("inf"), ops.cast(zero, "int32")
    start = Search(zero + initial_weight, zero, infinity, count, count, x, infinity, done, count)
    (last,) = backend.while_loop(
        lambda search: ops.logical_not(ops.all(search.done)), body, (start,)
    )
    return last


def squared_length(delta):
    """Returns the squared Euclidean norm of each example, shape `(batch_size,)`."""
    return ops.sum(ops.square(delta), axis=tuple(range(1, len(delta.shape))))


def _update(search, tried, ends):
    """Returns the search updated by the result of its weight, with the next weight."""
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
