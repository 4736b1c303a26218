"""The baseline of all attacks: random points of the feasible set."""

import keras
from keras import ops

from keras_robust import losses
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.found import Found
from keras_robust.attacks.found import better
from keras_robust.attacks.found import choose
from keras_robust.attacks.found import counted
from keras_robust.attacks.goal import check_choice
from keras_robust.attacks.goal import make_goal

_LOSSES = (None, *losses.FUNCTIONS)


@keras.saving.register_keras_serializable(package="keras_robust")
class RandomNoise(Attack):
    """The worst of many random points: what no attack may fall behind.

    Draws `num_samples` points of ball and box, and keeps the worst: a wrong class first, then the
    higher loss. It needs no gradient and has no direction, so that it is the weakest attack there
    is. Where it breaks examples that a gradient attack leaves standing, that attack has failed,
    most often because the gradients of the model say nothing; Carlini et al. (2019) ask for such a
    check with 10,000 draws or more. It also measures how a model stands noise of a given size.

    The points are those of `threat_model.random_start`, uniform in the ball, or with `sphere=True`
    those of `threat_model.sphere_start`, which lie on its border; in many dimensions both do.
    Points that leave the box are projected into it. Every example has random numbers of its own.

    Deviations from the paper: none; it leaves the distribution open.

    Cost: `num_samples` forward passes. BatchNorm statistics see none of it.

    Args:
        num_samples: int >= 1, points for each example. Defaults to `1000`.
        sphere: bool, whether the points lie on the border of the ball. Defaults to `False`.
        targeted: `False`, away from `y`; `True`, towards `y`; `"least_likely"`, towards the class
            that the model finds least likely at `x`. Defaults to `False`.
        loss: what tells the worse of two points: `None`, the cross-entropy; a name in
            `losses.FUNCTIONS`; or a function `(y, logits) -> (batch_size,)`. Defaults to `None`.

    Raises:
        ValueError: for arguments out of range, and for a model that is no classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.6, 0.4]], "float32"), np.array([0])
    >>> attack = kr.attacks.RandomNoise(num_samples=2000)
    >>> print(np.round(attack(lambda x: x, x, y, kr.Linf(0.2)), 1))
    [[0.4 0.6]]

    References:
        - [Carlini et al., 2019](https://arxiv.org/abs/1902.06705)
    """

    uses_gradients = False

    def __init__(self, *, num_samples=1000, sphere=False, targeted=False, loss=None):
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(
                f"Argument `num_samples` must be an int >= 1. Received: {num_samples!r}"
            )
        check_choice("sphere", sphere, (True, False))
        check_choice("targeted", targeted, (True, False, "least_likely"))
        if not callable(loss):
            check_choice("loss", loss, _LOSSES)
        self.num_samples = num_samples
        self.sphere = sphere
        self.targeted = targeted
        self.loss = loss

    def search(self, classifier, x, y, threat_model, seed, keep_best, restart=0):
        score = make_goal(classifier, x, y, self.loss or "cross_entropy", self.targeted)
        shape = ops.shape(x)[:1]
        never = ops.zeros(shape, dtype="bool")
        draw = threat_model.sphere_start if self.sphere else threat_model.random_start

        def judged(number):
            point = draw(x, seed + ops.stack([ops.cast(number, "int32"), 0]))
            return Found(point, *score(point), never, counted(shape, 1))

        best = ops.fori_loop(
            1, self.num_samples, lambda number, best: better(best, judged(number)), judged(0)
        )
        if not keep_best:
            return best
        clean = Found(x, *score(x), never, counted(shape, 2))
        found = choose(clean.success, clean, better(clean, best))
        return found._replace(queries=best.queries + clean.queries)
