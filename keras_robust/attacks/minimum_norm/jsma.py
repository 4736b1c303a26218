"""The Jacobian-based saliency map attack (JSMA)."""

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
    """The state of the search, with one entry per example."""

    used: object  # bool `(batch_size, positions)`, the changed features.
    success: object
    done: object
    zero_gradient: object
    queries: object


class _Jacobian(typing.NamedTuple):
    """The derivatives of the target logit and of the sum of the others, and the logits."""

    target: object
    others: object
    logits: object


@keras.saving.register_keras_serializable(package="keras_robust")
class JSMA(MinimumNormAttack):
    """Changes few features, each as far as the box allows: the saliency map attack.

    With `a_i = d z_t / d x_i` and `b_i = sum_{j != t} d z_j / d x_i`, every step changes one pair
    of features by `theta`: the pair with the largest `-(a_p + a_q) (b_p + b_q)`, among those with
    `a_p + a_q > 0` and `b_p + b_q < 0`. No feature is changed twice. The search ends when the
    target class is reached, or when no pair is left within `epsilon`. With a negative `theta` both
    inequalities are reversed. The reported distance is the number of changed features. Defensive
    distillation claimed to stop this attack. JSMA is greedy and moves features in one direction
    only, so that `FMN` in `L0` usually needs fewer features. JSMA needs the threat model `L0`; with
    `per_pixel=True` it changes pairs of pixels, in all channels.

    Without `targeted`, the target is the most likely wrong class. With `num_targets > 1`, further
    targets follow in the order of the logits at `x`: one search each, on the examples that no
    earlier search broke. Any wrong class then counts as success.

    Deviations from the paper: logits replace probabilities, as in the authors' later code; if
    `epsilon` is odd, the last feature is changed alone, by the same rule; features that are not
    needed for the wrong class are restored at the end, starting with those that moved least.
    Deviations from cleverhans: if no pair meets the conditions, the search ends instead of changing
    an arbitrary pair; the best pair is exact, because all pairs are compared, `d` at a time, in
    memory of order `batch_size * d`.

    Cost: 2 attack passes and `d^2 / 2` comparisons per step, up to `epsilon / 2 + 1` steps for each
    target, and 13 forward passes to restore features that were not needed. BatchNorm statistics are
    not updated.

    Args:
        theta: float from -1 to 1 except 0, the change of a feature as a share of the width of the
            box, clipped to the bounds. Defaults to `1.0`, which moves features to their bound.
        gamma: float in (0, 1], the maximal share of features to change, whatever `epsilon` allows.
            At least 1 feature may change. Defaults to `1.0`; the paper has `0.145`.
        num_targets: int >= 1, the number of target classes to try. Defaults to `1`.
        targeted: bool, whether `y` holds target classes. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, for a threat model other than `L0`, and for a model
            that is not a classifier.

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

    def nearest(self, problem):
        x, threat_model = problem.x, problem.threat_model
        _check_threat_model(threat_model)
        low, high = threat_model.bounds
        saturated = threat_model.clip(x + self.theta * (high - low))
        room = threat_model.per_position(ops.abs(saturated - x))
        positions = room.shape[-1]
        budget = ops.minimum(threat_model.counts()[:, 0], max(1.0, self.gamma * positions // 1))
        logits = ops.stop_gradient(problem.classifier.logits(x, problem.y))
        labels = label_indices(problem.y, logits)
        target = labels if self.targeted else ranked_target(logits, labels, problem.restart)

        def point(used):
            return ops.where(threat_model.spread(used, x), saturated, x)

        def body(state):
            jacobian = self._jacobian(problem, point(state.used), target)
            hit = ops.equal(ops.cast(ops.argmax(jacobian.logits, axis=-1), "int32"), labels)
            success = hit if self.targeted else ops.logical_not(hit)
            finite = ops.all(ops.isfinite(jacobian.logits), axis=-1)
            # A feature at its bound would be changed without effect.
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

    def _jacobian(self, problem, point, target):
        """Returns the derivatives towards the sign of `theta`, summed over each position."""

        def slope(of_target):
            def total(point):
                logits = problem.classifier.logits(point, problem.y)
                own = ops.one_hot(target, logits.shape[-1], dtype=logits.dtype)
                own = own if of_target else 1.0 - own
                return ops.sum(logits * own, axis=-1), logits

            (_, logits), gradient = backend.value_and_input_gradient(total, point)
            gradient = ops.where(ops.isfinite(gradient), gradient, 0.0)
            # With a negative `theta` both conditions are reversed, as if both derivatives had the
            # opposite sign.
            sign = 1.0 if self.theta > 0.0 else -1.0
            return sign * problem.threat_model.per_position(gradient), logits

        (to_target, logits), (to_others, _) = slope(True), slope(False)
        return _Jacobian(to_target, to_others, logits)


def _check_threat_model(threat_model):
    if not isinstance(threat_model, threat_models.L0):
        raise ValueError(
            "JSMA changes few features, and needs the threat model L0, such as L0(10). "
            f"Received: {threat_model!r}"
        )


def _start(room):
    """Returns the state without any change; it counts the query for the clean logits."""
    all_false = ops.zeros(ops.shape(room)[:1], dtype="bool")
    return _State(
        used=ops.zeros_like(room, dtype="bool"),
        success=all_false,
        done=all_false,
        zero_gradient=ops.logical_not(all_false),
        queries=ops.cast(all_false, "int32") + 1,
    )


def _advance(state, jacobian, success, usable, left):
    """Returns the state updated by the Jacobian at its point, with one more pair changed."""
    pair, exists = best_pair(jacobian.target, -jacobian.others, usable, left)
    success = ops.where(state.done, state.success, success)
    ends = ops.logical_or(success, ops.logical_not(exists))
    done = ops.logical_or(state.done, ends)
    has_zero_gradient = ops.logical_and(
        zero_gradient(jacobian.target), zero_gradient(jacobian.others)
    )
    return _State(
        used=select(done, state.used, ops.logical_or(state.used, pair)),
        success=success,
        done=done,
        zero_gradient=ops.logical_and(
            state.zero_gradient, ops.logical_or(state.done, has_zero_gradient)
        ),
        # Two gradients, of two queries each.
        queries=state.queries + 4 * ops.cast(~state.done, "int32"),
    )
