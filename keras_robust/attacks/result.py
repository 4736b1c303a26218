"""What a search returns, and how two of them are compared."""

import typing

from keras import ops


class AttackResult(typing.NamedTuple):
    """What a search returns; every field has one entry per example.

    Fields: `x_adv`, the adversarial examples; `loss`, the value that was maximised; `success`,
    whether the attacker won; `zero_gradient`, whether every input gradient seen was zero (an attack
    without gradients says no); `queries`, int32, how often the model was asked: a forward pass
    counts one, its gradient one more.
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
        never = ops.zeros(shape, dtype="bool")
        return cls(x, ops.zeros(shape, "float32"), never, never, ops.zeros(shape, dtype="int32"))


def counted(shape, queries):
    """Returns the number of queries for every example of a batch."""
    return ops.full(shape, queries, dtype="int32")


def strongest(first, second):
    """Returns, per example, the `AttackResult` that won, or else the one with the higher loss.

    The queries of both are added, and the gradients of both must have been zero.
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
    """Returns a tuple of tensors, per example the one or the other."""
    return type(one)(*(select(condition, a, b) for a, b in zip(one, other, strict=True)))


def select(condition, one, other):
    """`where` with one condition per example."""
    condition = ops.reshape(condition, (-1,) + (1,) * (len(one.shape) - 1))
    return ops.where(condition, one, other)
