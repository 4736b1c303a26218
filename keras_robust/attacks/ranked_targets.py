"""The classes that targeted attacks of the AutoAttack family try in turn."""

from keras import ops

_LARGE = 1e30


def ranked_target(logits, labels, rank):
    """Returns the wrong class with the `rank`-th largest logit at the clean example.

    Args:
        logits: float tensor `(batch_size, num_classes)`, at the clean examples.
        labels: int tensor `(batch_size,)`, the true classes.
        rank: int or int32 tensor `()`, from 0. Ranks from `num_classes - 1` on repeat the classes.
    """
    num_classes = logits.shape[-1]
    own = ops.one_hot(labels, num_classes, dtype=logits.dtype)
    # The large number ranks the label last, whatever its logit is.
    order = ops.argsort(own * _LARGE - logits * (1.0 - own), axis=-1)
    return ops.take(order, ops.mod(rank, num_classes - 1), axis=1)
