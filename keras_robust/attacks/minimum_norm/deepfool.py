"""DeepFool: a minimum-norm attack that steps to the nearest linearized boundary."""

import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.minimum_norm.fab import lead_and_gradient
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.ranked_targets import ranked_target
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose

# Added to every step so that rounding does not end it in front of the boundary.
_EXCESS = 1e-4
_TINY = 1e-30


class _Boundary(typing.NamedTuple):
    """The nearest linearized boundary: its distance, and the lead of its class."""

    distance: object
    lead: object
    gradient: object
    zero_gradient: object  # Whether the gradients of all compared classes are zero.


class _State(typing.NamedTuple):
    """The state of the search; `total` is the sum of the steps, without overshoot."""

    x_adv: object
    total: object
    success: object
    done: object
    zero_gradient: object
    num_steps: object


@keras.saving.register_keras_serializable(package="keras_robust")
class DeepFool(MinimumNormAttack):
    """Finds a small perturbation in `L1`, `L2` or `Linf`, in few steps and without tuning.

    At the point `x_i` every class `k` has a lead `f_k = z_k - z_y` with gradient `w_k`. The nearest
    boundary is that of `l = argmin_k |f_k| / ||w_k||_q`, in the dual norm. The step is
    `r_i = (|f_l| / ||w_l||_q + 1e-4) d(w_l)`, with the steepest direction `d`, and
    `x_{i+1} = x + (1 + overshoot) sum_i r_i`. Each example stops as soon as it is misclassified. A
    bisection then removes the overshoot, so that on a linear model the result lies on the boundary.
    DeepFool is a quick upper bound of the distance to the nearest mistake. At a fixed epsilon it is
    a weak attack: TRADES keeps 61.4% against it in `Linf` on CIFAR-10, and 52.9% against the best
    attacks. Evaluate with other attacks.

    Examples that `num_steps` steps do not break, and examples that are misclassified from the
    start, are returned unchanged.

    Deviations from the paper: a step ends on the linearized boundary inside the box, and only the
    overshoot is clipped. The paper has no box; foolbox clips the whole step, which then falls short
    of the boundary, in `L1` again and again. Without a box the steps are those of the authors'
    code, which ends behind the boundary because of the overshoot and the curvature of the model.
    Their code moves away from the predicted class, this one from the label; the two differ only for
    examples that are misclassified from the start, which need no step.

    Cost: `num_classes - 1` attack passes and one forward pass for each step, usually 2 to 5 steps,
    and 13 forward passes to move the result back to the boundary. A loop linearizes the classes.
    TensorFlow may run up to ten of its iterations in parallel, so that it needs the memory of at
    most ten attack passes (one under XLA), whatever `num_classes` is. BatchNorm statistics are not
    updated.

    Args:
        num_classes: int >= 2, the number of classes to compare: the label, and the other classes
            that are most likely at `x`. Defaults to `10`.
        overshoot: number >= 0, how far every step goes beyond the linearized boundary, as a share
            of the perturbation. Defaults to `0.02`.
        num_steps: int >= 1, the maximal number of steps. Defaults to `50`.

    Raises:
        ValueError: for arguments out of range, for a model that is no classifier, and for threat
            models without a single norm, such as those for several inputs.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> found = kr.attacks.DeepFool().run(
    ...     lambda x: x @ weights + bias, x, y, kr.L2(0.5, bounds=None))
    >>> print(np.round(found.x_adv, 3), np.round(-found.loss, 3))
    [[0.4 0.3]] [0.224]

    References:
        - [Moosavi-Dezfooli et al., 2016](https://arxiv.org/abs/1511.04599)
    """

    def __init__(self, *, num_classes=10, overshoot=0.02, num_steps=50):
        check_counts(num_classes=num_classes, num_steps=num_steps)
        if num_classes < 2:
            raise ValueError(
                "Argument `num_classes` must be at least 2: the label is one of them. "
                f"Received: {num_classes!r}"
            )
        check_numbers(or_zero=True, overshoot=overshoot)
        self.num_classes = num_classes
        self.overshoot = overshoot
        self.num_steps = num_steps

    def nearest(self, problem):
        x, threat_model = problem.x, problem.threat_model
        score = make_attack_loss(problem, "margin", self.targeted)
        clean = ops.stop_gradient(problem.classifier.logits(x, problem.y))
        num_others = min(self.num_classes, clean.shape[-1]) - 1

        def body(state):
            boundary = self._boundary(problem, state.x_adv, clean, num_others)
            moved = self._step(state, boundary, x, threat_model)
            _, success = score(moved.x_adv)
            # If every gradient is zero, all later steps would be the same.
            moved = moved._replace(success=success, done=success | ops.isinf(boundary.distance))
            return (choose(state.done, state, moved),)

        _, success = score(x)
        count = ops.zeros_like(success, dtype="int32")
        all_true = ops.ones_like(success)
        (last,) = backend.while_loop(
            lambda state: ops.logical_not(ops.all(state.done)),
            body,
            (_State(x, ops.zeros_like(x), success, success, all_true, count),),
            maximum_iterations=self.num_steps,
        )
        return AttackResult(
            x_adv=last.x_adv,
            loss=-threat_model.distance(last.x_adv, x),
            success=last.success,
            zero_gradient=last.zero_gradient & ops.logical_not(success),
            # Making the loss, ranking the classes and scoring `x` take one query each.
            queries=3 + (2 * num_others + 1) * last.num_steps,
        )

    def _boundary(self, problem, x_adv, clean, num_others):
        """Returns the nearest `_Boundary` at `x_adv` among the most likely classes."""
        classifier, y = problem.classifier, problem.y
        labels = label_indices(y, clean)

        def compare(rank, nearest):
            target = ranked_target(clean, labels, rank)
            lead, gradient = lead_and_gradient(classifier, x_adv, y, labels, target)
            slope = problem.threat_model.dual_norm(gradient)
            usable = ops.logical_and(slope > 0.0, ops.isfinite(lead))
            distance = ops.where(usable, ops.abs(lead) / ops.maximum(slope, _TINY), float("inf"))
            has_zero_gradient = ops.logical_and(nearest.zero_gradient, zero_gradient(gradient))
            found = _Boundary(distance, lead, gradient, has_zero_gradient)
            closer = distance < nearest.distance
            return choose(closer, found, nearest)._replace(zero_gradient=has_zero_gradient)

        infinity = ops.full(ops.shape(x_adv)[:1], float("inf"), dtype="float32")
        all_true = ops.ones_like(infinity, dtype="bool")
        first = _Boundary(infinity, ops.zeros_like(infinity), ops.zeros_like(x_adv), all_true)
        return backend.fori_loop(0, num_others, compare, first)

    def _step(self, state, boundary, x, threat_model):
        """Returns the state after the step over the linearized boundary."""
        change = ops.abs(boundary.lead) + _EXCESS * threat_model.dual_norm(boundary.gradient)
        step = threat_model.project_onto_hyperplane(state.x_adv, boundary.gradient, change)
        total = state.total + step
        x_adv = ops.stop_gradient(threat_model.clip(x + (1.0 + self.overshoot) * total))
        has_zero_gradient = ops.logical_and(state.zero_gradient, boundary.zero_gradient)
        return state._replace(
            x_adv=x_adv, total=total, zero_gradient=has_zero_gradient, num_steps=state.num_steps + 1
        )
