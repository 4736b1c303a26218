"""Random noise, the baseline of all attacks."""

import math

import keras
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import threat_models
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.attacks.result import strongest
from keras_robust.backend import counter_rng

_LOSSES = (None, *losses.FUNCTIONS)
_RESOLUTION = 2.0**23


@keras.saving.register_keras_serializable(package="keras_robust")
class RandomNoise(Attack):
    """Keeps the worst of many random points: a baseline that every attack should beat.

    The attack draws `num_samples` points inside the ball and the box. It keeps the first point that
    the model misclassifies, or otherwise the point with the highest loss. The search ends when all
    examples of a batch are broken. In training it draws all points and keeps the worst of them,
    never the clean example. It needs no gradient and follows no direction, so that it is the
    weakest attack of all. If it breaks examples that a gradient attack does not, the gradient
    attack has failed, most often because of masked gradients. Carlini et al. (2019) ask for this
    check with at least 10,000 draws. The attack also measures how well a model withstands noise of
    a given size.

    The points come from `threat_model.random_start`, uniform in the ball, or with `sphere=True`
    from `threat_model.random_start_on_sphere`, on the boundary of the ball. In many dimensions
    nearly all points of the ball lie close to its boundary. Points outside of the box are projected
    into it. Every example has its own random numbers. In `Linf` they come from a cheap hash; in
    other threat models drawing them can take longer than the passes of a small model.

    Deviations from the paper: none; it leaves the distribution open.

    Cost: `num_samples + 2` forward passes, fewer if all examples of a batch are broken early; in
    training `num_samples + 1`. BatchNorm statistics are not updated.

    Args:
        num_samples: int >= 1, the number of points per example. Defaults to `1000`.
        sphere: bool, whether the points lie on the boundary of the ball. Defaults to `False`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`. Defaults to `False`.
        loss: the loss that ranks the points: `None`, the cross-entropy; a name in
            `losses.FUNCTIONS`; or a function `(y, logits) -> (batch_size,)`. Defaults to `None`.

    Raises:
        ValueError: for arguments out of range, and for a model that is not a classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.6, 0.4]], "float32"), np.array([0])
    >>> found = kr.attacks.RandomNoise(num_samples=2000).run(lambda x: x, x, y, kr.Linf(0.2))
    >>> print(found.success)
    [ True]

    References:
        - [Carlini et al., 2019](https://arxiv.org/abs/1902.06705)
    """

    uses_gradients = False

    def __init__(self, *, num_samples=1000, sphere=False, targeted=False, loss=None):
        check_counts(num_samples=num_samples)
        check_choice("sphere", sphere, (True, False))
        check_choice("targeted", targeted, (True, False, "least_likely"))
        if not callable(loss):
            check_choice("loss", loss, _LOSSES)
        self.num_samples = num_samples
        self.sphere = sphere
        self.targeted = targeted
        self.loss = loss

    def search(self, problem):
        score = make_attack_loss(problem, self.loss or "cross_entropy", self.targeted)
        draw = self._drawing(problem.x, problem.threat_model, problem.seed)

        def evaluate(number):
            return AttackResult.scored(draw(number), score, queries=1)

        if not problem.keep_best:
            first = evaluate(0)
            # One more query: `make_attack_loss` has evaluated the clean example.
            first = first._replace(queries=first.queries + 1)
            return backend.fori_loop(
                1, self.num_samples, lambda number, worst: strongest(worst, evaluate(number)), first
            )

        def is_going_on(number, best):
            is_open = ops.logical_not(ops.all(best.success))
            return ops.logical_and(number < self.num_samples, is_open)

        def body(number, best):
            return number + 1, choose(best.success, best, strongest(best, evaluate(number)))

        clean = self.score_clean(problem, score)
        _, best = backend.while_loop(is_going_on, body, (ops.convert_to_tensor(0, "int32"), clean))
        return best

    def _drawing(self, x, threat_model, seed):
        """Returns a function that maps the number of a draw to points."""
        if type(threat_model) is threat_models.Linf:
            keys = counter_rng.make_keys(seed, ops.shape(x)[0])
            return lambda number: self._drawn_from_cube(x, threat_model, keys, number)
        draw = threat_model.random_start_on_sphere if self.sphere else threat_model.random_start
        return lambda number: draw(x, seed + ops.stack([ops.cast(number, "int32"), 0]))

    def _drawn_from_cube(self, x, threat_model, keys, number):
        """Returns the points of `Linf.random_start` or its sphere variant, drawn from a hash."""
        bits = counter_rng.draw(keys, number, math.prod(ops.shape(x)[1:]))
        # The midpoints of equal parts of (-1, 1) are never 0, so that dividing by the largest is
        # safe.
        noise = (2.0 * counter_rng.below(bits, _RESOLUTION) + 1.0) / _RESOLUTION - 1.0
        if self.sphere:
            noise = noise / ops.max(ops.abs(noise), axis=-1, keepdims=True)
        noise = ops.reshape(noise, ops.shape(x))
        return threat_model.project(x + threat_model.radius * noise, x)
