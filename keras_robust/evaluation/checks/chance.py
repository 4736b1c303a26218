"""Chance level: whether a model classifies better than a constant prediction."""

import typing

import numpy as np

_MARGIN = 0.02
_ADVICE = (
    "the model does not classify these inputs, so the results of attacks mean nothing. First check "
    "the units and the preprocessing of the inputs, and the order of the labels."
)


class Chance(typing.NamedTuple):
    """The accuracy of a model compared with that of a constant prediction.

    Fields: `accuracy`, the mean of the accuracies of the classes, which is `1 / k` for a model that
    always predicts the same of `k` classes; `limit`, the largest accuracy that counts as chance;
    `num_classes`, `k`.
    """

    accuracy: float
    limit: float
    num_classes: int

    @property
    def warning(self):
        """The warning for a model at chance, or `None`."""
        # With few examples the limit is so high that even a good model may stay below it.
        if self.accuracy > self.limit or self.limit > 0.5 * (1.0 + 1.0 / self.num_classes):
            return None
        return (
            f"Clean accuracy is at chance, {self.accuracy:.1%} on average over {self.num_classes} "
            f"classes: {_ADVICE}"
        )


def measure_chance(labels, predictions):
    """Returns the `Chance` of predictions, or `None` if all examples are of one class.

    Args:
        labels: int array `(n,)`, the true classes.
        predictions: int array `(n,)`.
    """
    labels, right = np.asarray(labels), np.equal(labels, predictions)
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        return None
    chance = 1.0 / len(classes)
    accuracies = [float(right[labels == one].mean()) for one in classes]
    # The variance of a mean over k independent classes is the sum of their variances over k^2.
    deviation = np.sqrt(np.sum(chance * (1.0 - chance) / sizes)) / len(classes)
    # Guessing exceeds three standard deviations with a probability of about 0.1%.
    limit = chance + max(_MARGIN, 3.0 * float(deviation))
    return Chance(float(np.mean(accuracies)), limit, len(classes))
