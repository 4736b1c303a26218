"""Whether a model classifies at all, which comes before any attack on it."""

import typing

import numpy as np

_MARGIN = 0.02
_ADVICE = (
    "the model does not classify these inputs, and what attacks say of it means nothing. Look at "
    "the units and the preprocessing of the inputs, and at the order of the labels, first."
)


class Chance(typing.NamedTuple):
    """How a model stands against one that names a class without a look.

    Fields: `accuracy`, the mean of the accuracies of the classes, which is `1 / k` for a model that
    always names the same of `k` classes; `limit`, up to which it is no better than that;
    `num_classes`, `k`.
    """

    accuracy: float
    limit: float
    num_classes: int

    @property
    def doubt(self):
        """What to say of a model at chance, or `None`."""
        # With few examples nothing can be told, though all of them were right.
        if self.accuracy > self.limit or self.limit > 0.5 * (1.0 + 1.0 / self.num_classes):
            return None
        return (
            f"Clean accuracy is at chance, {self.accuracy:.1%} in the mean over {self.num_classes} "
            f"classes: {_ADVICE}"
        )


def measure_chance(labels, predictions):
    """Returns `Chance`, or `None` for examples of one class.

    Args:
        labels: int array `(n,)`.
        predictions: int array `(n,)`.
    """
    labels, right = np.asarray(labels), np.equal(labels, predictions)
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        return None
    chance = 1.0 / len(classes)
    accuracies = [float(right[labels == one].mean()) for one in classes]
    deviation = np.sqrt(np.sum(chance * (1.0 - chance) / sizes)) / len(classes)
    limit = chance + max(_MARGIN, 3.0 * float(deviation))
    return Chance(float(np.mean(accuracies)), limit, len(classes))
