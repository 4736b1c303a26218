"""The classes that targeted attacks of the AutoAttack family try in turn."""

from keras import ops

from keras_robust import backend
from keras_robust.attacks.minimum_norm.fab import lead_and_gradient

# The numbers of the paper of MALT: of so many likely classes, the nearest come first.
NUM_CANDIDATES = 100
_LARGE = 1e30
_TINY = 1e-30


def ranked_target(logits, labels, rank):
    """Returns the wrong class with the `rank`-th largest logit at the clean example.

    Args:
        logits: float tensor `(batch_size, num_classes)`, at the clean examples.
        labels: int tensor `(batch_size,)`, the true classes.
        rank: int or int32 tensor `()`, from 0. Ranks from `num_classes - 1` on repeat the classes.
    """
    return ops.take(_order(logits, labels), ops.mod(rank, logits.shape[-1] - 1), axis=1)


def nearest_target(problem, logits, labels):
    """Returns the wrong class with the `problem.restart`-th nearest boundary of a linear model.

    The distance of class `c` is `(z_y - z_c) / ||grad(z_c - z_y)||_*`, with the dual norm, at the
    clean example. The 100 wrong classes with the largest logits are compared, which costs one
    attack pass each. Ranks beyond them repeat them.

    Args:
        problem: a `SearchProblem`.
        logits: float tensor `(batch_size, num_classes)`, at the clean examples.
        labels: int tensor `(batch_size,)`, the true classes.
    """
    classifier, x, y = problem.classifier, problem.x, problem.y
    order = _order(logits, labels)
    count = num_candidates(logits.shape[-1])

    def measure(rank, distances):
        targets = ops.take(order, rank, axis=1)
        lead, gradient = lead_and_gradient(classifier, x, y, labels, targets)
        distance = -lead / ops.maximum(problem.threat_model.dual_norm(gradient), _TINY)
        is_here = ops.equal(ops.arange(count, dtype="int32"), rank)
        return ops.where(is_here, ops.expand_dims(distance, -1), distances)

    distances = backend.fori_loop(0, count, measure, ops.zeros_like(logits[:, :count]))
    ranks = ops.argsort(distances, axis=-1)
    rank = ops.take(ranks, ops.mod(problem.restart, count), axis=1)
    return ops.take_along_axis(order, ops.expand_dims(rank, -1), axis=1)[:, 0]


def num_candidates(num_classes):
    """Returns how many wrong classes `nearest_target` compares."""
    return min(num_classes - 1, NUM_CANDIDATES)


def _order(logits, labels):
    """Returns the classes in the order of their logits, the label last, `(n, num_classes)`."""
    own = ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    # The large number ranks the label last, whatever its logit is.
    return ops.argsort(own * _LARGE - logits * (1.0 - own), axis=-1)
