"""JSMA: the pair of features with the largest saliency, again and again."""

import numbers
import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust import threat_models
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.minimum_norm.saliency_pairs import best_pair
from keras_robust.attacks.ranked_targets import ranked_target
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import select


class _State(typing.NamedTuple):
    """The search, one entry per example."""

    used: object  # bool `(batch_size, positions)`, the features that were changed.
    success: object
    done: object
    zero_gradient: object
    queries: object


class _Jacobian(typing.NamedTuple):
    """The slopes of the target logit and of the sum of the others, per position, and the logits."""

    target: object
    others: object
    logits: object


@keras.saving.register_keras_serializable(package="keras_robust")
class JSMA(MinimumNormAttack):
    """The Jacobian-based saliency map attack: few features, each changed all the way.

    With `a_i = d z_t / d x_i` and `b_i = sum_{j != t} d z_j / d x_i`, every step changes the pair
    of features with the largest `-(a_p + a_q) (b_p + b_q)`, among those with `a_p + a_q > 0` and
    `b_p + b_q < 0`, by `theta`; no feature is changed twice. It ends at the target class, or when
    no pair is left, or none within `epsilon`. With a negative `theta` both conditions turn round.
    The smallest number of features that it met is the distance that it reports. It was the attack
    that defensive distillation was said to stop; it is greedy and moves features one way only, so
    that `FMN` in L0 mostly needs fewer features. Needs the threat model `L0`; with
    `per_pixel=True` pairs of pixels are changed, in all channels.

    Untargeted, the target is the runner-up, the most likely of the wrong classes; with
    `num_targets`, further ones in the order of the logits at `x`, one search each for the examples
    that no earlier one broke. Any wrong class is then a success.

    Deviations from the paper: logits in place of probabilities, as in the authors' later code; of
    an odd `epsilon`, the last feature is changed alone, by the same rule; features that the class
    does not need, among those that moved least, are put back at the end. From cleverhans: where no
    pair meets the conditions the search ends, and changes no arbitrary one. The best pair is exact:
    all pairs are compared, `d` at a time, so that memory stays in the order of `batch_size * d`.

    Cost: per step, 2 attack passes and `d^2 / 2` comparisons; up to `epsilon / 2 + 1` steps for
    each target, and 13 forward passes, in which features that were not needed are put back.
    BatchNorm statistics see none of it.

    Args:
        theta: float from -1 to 1, not 0, the change of a feature, as a share of the width of the
            box; it ends at the bounds. Defaults to `1.0`, which saturates.
        gamma: float in (0, 1], the share of the features that may change at most, whatever
            `epsilon` allows; at least 1 may. Defaults to `1.0`; the paper has `0.145`.
        num_targets: int >= 1, the number of targets tried. Defaults to `1`.
        targeted: bool, whether `y` holds target classes. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, for a threat model other than `L0`, and for a model
            that is no classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[-1.0, 1.0], [-2.0, 2.0], [3.0, -3.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5, 0.6]], "float32"), np.array([0])
    >>> found = kr.attacks.JSMA().run(lambda x: x @ weights, x, y, kr.L0(2))
    >>> print(found.x_adv, found.success)
    [[1.  0.5 0.6]] [ True]

    References:
        - [Papernot et al., 2016](https://arxiv.org/abs/1511.07528)
    """

    def __init__(self, *, theta=1.0, gamma=1.0, num_targets=1, targeted=False):
        if not isinstance(theta, numbers.Real) or not 0.0 < abs(theta) <= 1.0:
            raise ValueError(
                f"Argument `theta` must be from -1 to 1, and not 0. Received: {theta!r}"
            )
        if not isinstance(gamma, numbers.Real) or not 0.0 < gamma <= 1.0:
            raise ValueError(f"Argument `gamma` must be a number in (0, 1]. Received: {gamma!r}")
        check_counts(num_targets=num_targets)
        if not isinstance(targeted, bool) or (targeted and num_targets > 1):
            raise ValueError(
                "Argument `targeted` must be a bool, and False for several targets. "
                f"Received: targeted={targeted!r}, num_targets={num_targets}"
            )
        self.theta = theta
        self.gamma = gamma
        self.num_targets = num_targets
        self.targeted = targeted
        self.num_restarts = num_targets

    def nearest(self, classifier, x, y, threat_model, seed, restart):
        if not isinstance(threat_model, threat_models.L0):
            raise ValueError(
                "JSMA changes few features, and needs the threat model L0, such as L0(10). "
                f"Received: {threat_model!r}"
            )
        low, high = threat_model.bounds
        saturated = threat_model.clip(x + self.theta * (high - low))
        room = threat_model.per_position(ops.abs(saturated - x))
        positions = room.shape[-1]
        budget = ops.minimum(threat_model.counts()[:, 0], max(1.0, self.gamma * positions // 1))
        logits = ops.stop_gradient(classifier.logits(x, y))
        labels = label_indices(y, logits)
        target = labels if self.targeted else ranked_target(logits, labels, restart)

        def point(used):
            return ops.where(threat_model.spread(used, x), saturated, x)

        def body(state):
            jacobian = self._jacobian(classifier, point(state.used), y, target, threat_model)
            hit = ops.equal(ops.cast(ops.argmax(jacobian.logits, axis=-1), "int32"), labels)
            success = hit if self.targeted else ops.logical_not(hit)
            finite = ops.all(ops.isfinite(jacobian.logits), axis=-1)
            usable = ops.logical_and(room > 0.0, ops.logical_not(state.used))
            left = budget - ops.sum(ops.cast(state.used, "float32"), axis=-1)
            return (_advance(state, jacobian, ops.logical_and(success, finite), usable, left),)

        (last,) = backend.while_loop(
            lambda state: ops.logical_not(ops.all(state.done)),
            body,
            (_start(room),),
            maximum_iterations=positions + 1,
        )
        return AttackResult(
            x_adv=ops.stop_gradient(point(last.used)),
            loss=-ops.sum(ops.cast(last.used, "float32"), axis=-1),
            success=last.success,
            zero_gradient=last.zero_gradient,
            queries=last.queries,
        )

    def _jacobian(self, classifier, point, y, target, threat_model):
        """Returns the slopes in the direction of `theta`, those of each position added up."""

        def slope(of_target):
            def total(point):
                logits = classifier.logits(point, y)
                own = ops.one_hot(target, logits.shape[-1], dtype=logits.dtype)
                own = own if of_target else 1.0 - own
                return ops.sum(logits * own, axis=-1), logits

            (_, logits), gradient = backend.value_and_input_gradient(total, point)
            gradient = ops.where(ops.isfinite(gradient), gradient, 0.0)
            sign = 1.0 if self.theta > 0.0 else -1.0
            return sign * threat_model.per_position(gradient), logits

        (to_target, logits), (to_others, _) = slope(True), slope(False)
        return _Jacobian(to_target, to_others, logits)


def _start(room):
    """Returns the state in which nothing is changed; the clean logits were asked for."""
    never = ops.zeros(ops.shape(room)[:1], dtype="bool")
    return _State(
        used=ops.zeros_like(room, dtype="bool"),
        success=never,
        done=never,
        zero_gradient=ops.logical_not(never),
        queries=ops.cast(never, "int32") + 1,
    )


def _advance(state, jacobian, success, usable, left):
    """Takes in what the point of `state` showed, and changes one more pair."""
    pair, exists = best_pair(jacobian.target, -jacobian.others, usable, left)
    success = ops.where(state.done, state.success, success)
    ends = ops.logical_or(success, ops.logical_not(exists))
    done = ops.logical_or(state.done, ends)
    blind = ops.logical_and(zero_gradient(jacobian.target), zero_gradient(jacobian.others))
    return _State(
        used=select(done, state.used, ops.logical_or(state.used, pair)),
        success=success,
        done=done,
        zero_gradient=ops.logical_and(state.zero_gradient, ops.logical_or(state.done, blind)),
        queries=state.queries + 4 * ops.cast(~state.done, "int32"),
    )
