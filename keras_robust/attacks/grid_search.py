"""The worst point of a grid."""

import math

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import threat_models
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import strongest

_LOSSES = (None, *losses.FUNCTIONS)
_MOST_POINTS = 1_000_000


@keras.saving.register_keras_serializable(package="keras_robust")
class GridSearch(Attack):
    """Evaluates all points of a grid and keeps the worst one: the attack for few parameters.

    Every feature takes `num_values` values, evenly spaced from `-epsilon` to `epsilon`, and the
    grid holds all combinations. The result is a point that the model misclassifies, if there is
    one, and among several the one with the highest loss. Engstrom et al. (2019) attack rotations
    and translations in this way, because the loss has many local maxima there: see
    `threat_models.Affine`, where the features are the parameters of the transformation. It also
    serves in `Linf` for data with few features.

    Deviations from the paper: its grid has whole pixels; this one is evenly spaced over any range.
    Cost: one forward pass per point, and two for the clean example. The search is the same for
    every seed.

    Args:
        num_values: the number of values per feature: a list of ints >= 1, one for each feature, or
            an int for all of them. An odd number includes the unchanged value; 1 is only this
            value. The default is the grid of the paper for rotation, shift along the rows, and
            shift along the columns. Defaults to `(31, 5, 5)`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`. Defaults to `False`.
        loss: the loss that ranks the points: `None`, the cross-entropy; a name in
            `losses.FUNCTIONS`; or a function `(y, logits) -> (batch_size,)`. Defaults to `None`.

    Raises:
        ValueError: for arguments out of range. Once data are known: if the number of features
            differs, for more than a million points, and for threat models other than `Affine` and
            `Linf`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.6, 0.4]], "float32"), np.array([0])
    >>> x_adv = kr.attacks.GridSearch([3, 5])(lambda x: x, x, y, kr.Linf(0.2))
    >>> print(np.round(x_adv, 2))
    [[0.4 0.6]]

    References:
        - [Engstrom et al., 2019](https://arxiv.org/abs/1712.02779)
    """

    uses_gradients = False

    def __init__(self, num_values=(31, 5, 5), *, targeted=False, loss=None):
        numbers = num_values if isinstance(num_values, (list, tuple)) else [num_values]
        check_counts(**{f"num_values[{index}]": one for index, one in enumerate(numbers)})
        check_choice("targeted", targeted, (True, False, "least_likely"))
        if not callable(loss):
            check_choice("loss", loss, _LOSSES)
        self.num_values = num_values
        self.targeted = targeted
        self.loss = loss

    @property
    def num_queries(self):
        """The number of points, or `None` if it depends on the number of features."""
        return None if isinstance(self.num_values, int) else math.prod(self.num_values)

    def search(self, problem):
        counts = self._counts(problem)
        score = make_attack_loss(problem, self.loss or "cross_entropy", self.targeted)
        x, ball = problem.x, problem.threat_model

        def evaluate(number):
            shares = ops.reshape(_shares(counts, number), (1, *x.shape[1:]))
            point = ball.project(x + ball.radius * shares, x)
            return AttackResult.scored(point, score, queries=1)

        worst = backend.fori_loop(
            1,
            math.prod(counts),
            lambda number, worst: strongest(worst, evaluate(number)),
            evaluate(0),
        )
        if not problem.keep_best:
            return worst
        clean = self.score_clean(problem, score)
        return self.leave_mistakes(clean, strongest(clean, worst))

    def _counts(self, problem):
        """Returns the number of values of each feature, a list of ints."""
        if type(problem.threat_model) is not threat_models.Linf:
            raise ValueError(
                "GridSearch needs ranges of single features, as in Affine or Linf. "
                f"Received: {problem.threat_model!r}"
            )
        size = math.prod(problem.x.shape[1:])
        given = self.num_values
        counts = [given] * size if isinstance(given, int) else list(given)
        if len(counts) != size or math.prod(counts) > _MOST_POINTS:
            raise ValueError(
                "Expected one number of values for each feature that the attacker may change, and "
                f"at most {_MOST_POINTS} points. In Affine, `threat_model.grid` is the grid of the "
                f"paper. Received: num_values={given!r} for {size} features"
            )
        return counts


def _shares(counts, number):
    """Returns the point of the grid with a number, as shares of the radius from -1 to 1."""
    strides = np.cumprod([1, *counts[:0:-1]])[::-1]
    digits = (number // strides.astype("int32")) % np.asarray(counts, "int32")
    last = np.asarray(counts, "float32") - 1.0
    # Whole numbers, so that the middle is exactly 0.
    return (2.0 * ops.cast(digits, "float32") - last) / np.maximum(last, 1.0)
