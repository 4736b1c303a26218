"""What an evaluation found for each example, in small arrays that JSON can hold."""

import typing

import numpy as np


class RowResults(typing.NamedTuple):
    """The results of the examples, from which all numbers of a report follow.

    Fields, arrays `(n,)`: `y`, `predictions` and `adv_predictions`, the true classes and those that
    the model predicts for the clean and the strongest adversarial inputs; `robust` and `proved`,
    bool; `distances`, of the nearest mistakes, or `None`. `numbers`, int array or `None`, as in
    `WorstCase`.
    """

    y: np.ndarray
    predictions: np.ndarray
    adv_predictions: np.ndarray
    robust: np.ndarray
    proved: np.ndarray
    distances: np.ndarray | None = None
    numbers: np.ndarray | None = None

    @classmethod
    def of(cls, worst):
        """Returns the results in a `WorstCase`."""
        predictions = (np.argmax(logits, axis=-1) for logits in (worst.logits, worst.adv_logits))
        fields = worst.robust, worst.proved, worst.distances, worst.numbers
        return cls(worst.y, *predictions, *fields)

    @property
    def correct(self):
        """Bool array `(n,)`, whether the clean prediction is right."""
        return self.predictions == self.y
