"""The result of an attack, and how two results are compared."""

import typing

from keras import ops


class AttackResult(typing.NamedTuple):
    """The result of a search; every field has one entry per example.

    Fields: `x_adv`, the adversarial examples; `loss`, the value that was maximized; `success`,
    whether the attack succeeded; `zero_gradient`, whether every input gradient seen was zero
    (`False` for attacks without gradients); `queries`, int32, the number of model evaluations: a
    forward pass counts one, its gradient one more.
    """

    x_adv: object
    loss: object
    success: object
    zero_gradient: object
    queries: object

    @classmethod
    def unattacked(cls, x):
        """Returns the result for examples that no attack has changed."""
        shape = ops.shape(x)[:1]
        all_false = ops.zeros(shape, dtype="bool")
        return cls(
            x, ops.zeros(shape, "float32"), all_false, all_false, ops.zeros(shape, dtype="int32")
        )

    @classmethod
    def scored(cls, x_adv, score, queries):
        """Returns the result of points with the loss and success that `score` returns for them."""
        shape = ops.shape(x_adv)[:1]
        all_false = ops.zeros(shape, dtype="bool")
        return cls(x_adv, *score(x_adv), all_false, counted(shape, queries))


def counted(shape, queries):
    """Returns the same number of queries for every example of a batch."""
    return ops.full(shape, queries, dtype="int32")


def strongest(first, second):
    """Returns, per example, the successful `AttackResult`, or else that with the higher loss.

    The queries are added. `zero_gradient` is true where it is true in both.
    """
    wins = ops.logical_or(
        ops.logical_and(second.success, ops.logical_not(first.success)),
        ops.logical_and(ops.equal(second.success, first.success), second.loss > first.loss),
    )
    return choose(wins, second, first)._replace(
        zero_gradient=ops.logical_and(first.zero_gradient, second.zero_gradient),
        queries=first.queries + second.queries,
    )


def choose(condition, one, other):
    """Returns a named tuple with the entries of `one` where `condition` holds, else of `other`."""
    return type(one)(*(select(condition, a, b) for a, b in zip(one, other, strict=True)))


def select(condition, one, other):
    """Returns `ops.where` with one condition per example."""
    condition = ops.reshape(condition, (-1,) + (1,) * (len(one.shape) - 1))
    return ops.where(condition, one, other)
