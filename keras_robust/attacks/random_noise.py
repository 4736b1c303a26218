"""The baseline of all attacks: random points of the feasible set."""

import math

import keras
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import threat_models
from keras_robust.attacks import counter_rng
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import strongest

_LOSSES = (None, *losses.FUNCTIONS)
_RESOLUTION = 2.0**23


@keras.saving.register_keras_serializable(package="keras_robust")
class RandomNoise(Attack):
    """The worst of many random points: what no attack may fall behind.

    Draws `num_samples` points of ball and box, and keeps the first that the model gets wrong, or
    else the one with the highest loss. An example that is broken stays as it is, and when all of a
    batch are broken, it ends; in training it draws them all, and keeps the worst, which is never
    the example itself. It needs no gradient and has no direction, so that it is the weakest attack
    there is. Where it breaks examples that a gradient attack leaves standing, that attack has
    failed, most often because the gradients of the model say nothing; Carlini et al. (2019) ask for
    such a check with 10,000 draws or more. It also measures how a model stands noise of a given
    size.

    The points are those of `threat_model.random_start`, uniform in the ball, or with `sphere=True`
    those of `threat_model.random_start_on_sphere`, which lie on its border; in many dimensions both
    do. Points that leave the box are projected into it. Every example has random numbers of its
    own. In `Linf` they come from a hash that costs next to nothing; in other threat models drawing
    them for one example after the other takes longer than a small model does.

    Deviations from the paper: none; it leaves the distribution open.

    Cost: `num_samples + 2` forward passes, fewer where all of a batch is broken early; in training
    `num_samples + 1`. BatchNorm statistics see none of it.

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

    def search(self, classifier, x, y, threat_model, seed, keep_best, restart=0):
        score = make_attack_loss(classifier, x, y, self.loss or "cross_entropy", self.targeted)
        shape = ops.shape(x)[:1]
        never = ops.zeros(shape, dtype="bool")
        draw = self._drawing(x, threat_model, seed)

        def judged(number):
            point = draw(number)
            return AttackResult(point, *score(point), never, counted(shape, 1))

        if not keep_best:
            first = judged(0)
            first = first._replace(queries=first.queries + 1)  # The goal looked at the example.
            return backend.fori_loop(
                1, self.num_samples, lambda number, worst: strongest(worst, judged(number)), first
            )

        def is_going_on(number, best):
            is_open = ops.logical_not(ops.all(best.success))
            return ops.logical_and(number < self.num_samples, is_open)

        def body(number, best):
            return number + 1, choose(best.success, best, strongest(best, judged(number)))

        clean = AttackResult(x, *score(x), never, counted(shape, 2))
        _, best = backend.while_loop(is_going_on, body, (ops.convert_to_tensor(0, "int32"), clean))
        return best

    def _drawing(self, x, threat_model, seed):
        """Returns the function from the number of a draw to points."""
        if type(threat_model) is threat_models.Linf:
            keys = counter_rng.make_keys(seed, ops.shape(x)[0])
            return lambda number: self._drawn_from_cube(x, threat_model, keys, number)
        draw = threat_model.random_start_on_sphere if self.sphere else threat_model.random_start
        return lambda number: draw(x, seed + ops.stack([ops.cast(number, "int32"), 0]))

    def _drawn_from_cube(self, x, threat_model, keys, number):
        """What `Linf.random_start` and `Linf.random_start_on_sphere` draw, with bits of a hash."""
        bits = counter_rng.draw(keys, number, math.prod(ops.shape(x)[1:]))
        # The middles of equal parts of (-1, 1), none of which is 0.
        noise = (2.0 * counter_rng.below(bits, _RESOLUTION) + 1.0) / _RESOLUTION - 1.0
        if self.sphere:
            noise = noise / ops.max(ops.abs(noise), axis=-1, keepdims=True)
        noise = ops.reshape(noise, ops.shape(x))
        return threat_model.project(x + threat_model.radius * noise, x)
