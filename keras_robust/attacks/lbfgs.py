"""L-BFGS: the smallest perturbation that reaches another class."""

import math
import numbers
import typing

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack import Found
from keras_robust.attacks.attack import select
from keras_robust.attacks.box_lbfgs import minimise
from keras_robust.attacks.goal import make_goal
from keras_robust.attacks.goal import zero_gradient
from keras_robust.attacks.iterative_attack import check_choice
from keras_robust.threat_models.threat_model import per_example

_GROWTH = 10.0
_LARGEST_WEIGHT = 1e6
_LARGE = 1e9


class _State(typing.NamedTuple):
    """The search for the weight `c`, one entry per example."""

    weight: object
    failed: object  # The largest weight that was too small.
    worked: object  # The smallest weight that was enough, infinity before there is one.
    halvings: object
    x_adv: object
    distance: object
    done: object


@keras.saving.register_keras_serializable(package="keras_robust")
class LBFGS(Attack):
    """The smallest Euclidean perturbation that changes the class: box-constrained L-BFGS.

    `min_r c CE(f(x + r), t) + ||r||_2^2` with `x + r` inside the bounds, for a target class `t`;
    `c` grows tenfold until the class changes, and is then bisected towards the smallest one that
    changes it. Szegedy et al. (2014) found adversarial examples with it, and trained on them. It
    looks for small perturbations, so that it says how far away a mistake is. At a fixed epsilon it
    is a weak attack: TRADES keeps 81.6% against it on CIFAR-10, and 56.6% against PGD. Use it for
    training as in the paper, with `AdversarialPool` or `Mixed`; evaluate with other attacks.

    The target is the runner-up, the most likely of the wrong classes; any wrong class counts as
    success. A larger norm than the threat model allows is scaled back into the ball, in `L1` and
    `Linf` to its nearest point, and success is judged there. Examples that no `c` changes, and
    those that are wrong from the start, stay as they are.

    Deviations from the paper: `||r||^2` for its `|r|`, as in cleverhans, and no line search for
    the exact `c`. From cleverhans: every example is a problem of its own; no untargeted mode, whose
    objective has no lower bound. From both: in place of the Fortran L-BFGS-B a projected L-BFGS,
    which runs all examples side by side in the graph, in float32, also under XLA.

    Cost: up to `num_steps` attack passes for each of about `search_steps + 4` values of `c`, most
    often 10 to 30. BatchNorm statistics see none of it.

    Args:
        initial_weight: float > 0, the first `c`. Defaults to `0.01`.
        search_steps: int >= 1, bisections of `c`. With `5` the perturbation is some 3% longer than
            with many, and seldom more than 10%. Defaults to `5`.
        num_steps: int >= 1, gradients for one value of `c` at most. Defaults to `100`.
        targeted: `False`, away from `y`, to the runner-up; `True`, towards `y`; `"least_likely"`,
            to the class that the model finds least likely at `x`. Defaults to `False`.

    Raises:
        ValueError: for arguments out of range, and for a model that is no classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.LBFGS(search_steps=12)
    >>> x_adv = attack(lambda x: x @ weights - [1.0, -1.0], x, y, kr.threat_models.L2(0.5, None))
    >>> print(np.round(x_adv, 2))
    [[0.4 0.3]]

    References:
        - [Szegedy et al., 2014](https://arxiv.org/abs/1312.6199)
    """

    def __init__(self, *, initial_weight=1e-2, search_steps=5, num_steps=100, targeted=False):
        is_number = isinstance(initial_weight, numbers.Real) and math.isfinite(initial_weight)
        if not is_number or initial_weight <= 0.0:
            raise ValueError(
                f"Argument `initial_weight` must be a number > 0. Received: {initial_weight!r}"
            )
        for name, value in (("search_steps", search_steps), ("num_steps", num_steps)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Argument `{name}` must be an int >= 1. Received: {value!r}")
        check_choice("targeted", targeted, (True, False, "least_likely"))
        self.initial_weight = initial_weight
        self.search_steps = search_steps
        self.num_steps = num_steps
        self.targeted = targeted

    def search(self, classifier, x, y, threat_model, seed, keep_best):
        score = make_goal(classifier, x, y, "cross_entropy", self.targeted)
        targets = self._targets(classifier, x, y)

        def cross_entropy(point):
            return losses.cross_entropy(targets, classifier.logits(point, y)), ()

        _, success = score(x)
        _, gradient = backend.value_and_input_gradient(cross_entropy, x)
        smallest = self._smallest(score, cross_entropy, x, success, threat_model.bounds)
        x_adv = ops.stop_gradient(threat_model.project(smallest, x))
        x_adv = select(success, x, x_adv)
        return Found(x_adv, *score(x_adv), zero_gradient(gradient))

    def _targets(self, classifier, x, y):
        """Returns the class, as int32, that each example is to reach."""
        logits = classifier.logits(x, y)
        num_classes = logits.shape[-1]
        labels = ops.argmax(logits, axis=-1) if y is None else backend.single(y)
        labels = losses.to_indices(labels, num_classes)
        if self.targeted is True:
            return labels
        if self.targeted:
            return ops.cast(ops.argmin(logits, axis=-1), "int32")
        own = ops.one_hot(labels, num_classes, dtype=logits.dtype)
        return ops.cast(ops.argmax(logits - _LARGE * own, axis=-1), "int32")

    def _smallest(self, score, cross_entropy, x, success, bounds):
        """Returns the nearest successful points of the search, and `x` where there is none."""
        low, high = (-np.inf, np.inf) if bounds is None else bounds

        def attempt(state):
            def function(point):
                (values, _), gradient = backend.value_and_input_gradient(cross_entropy, point)
                values = state.weight * values + _squares(point - x)
                return values, per_example(state.weight, x) * gradient + 2.0 * (point - x)

            steps = {"num_steps": self.num_steps, "done": state.done}
            point = minimise(function, x, low, high, **steps)
            _, hits = score(point)
            return (self._narrow(state, point, _squares(point - x), hits),)

        zero = ops.zeros(ops.shape(x)[:1])
        weight, never = zero + self.initial_weight, zero + np.inf
        count = ops.cast(zero, "int32")
        (last,) = ops.while_loop(
            lambda state: ops.logical_not(ops.all(state.done)),
            attempt,
            (_State(weight, zero, never, count, x, never, success),),
        )
        return last.x_adv

    def _narrow(self, state, point, distance, hits):
        """Takes in what one value of `c` led to, and chooses the next one."""
        hits = hits & ~state.done
        closer = hits & (distance < state.distance)
        failed = ops.where(hits, state.failed, state.weight)
        worked = ops.where(hits, state.weight, state.worked)
        halvings = state.halvings + ops.cast(ops.isfinite(state.worked), "int32")
        found = ops.isfinite(worked)
        weight = ops.where(found, 0.5 * (failed + worked), _GROWTH * state.weight)
        ends = (halvings >= self.search_steps) | (weight > _LARGEST_WEIGHT)
        return _State(
            weight=weight,
            failed=failed,
            worked=worked,
            halvings=halvings,
            x_adv=select(closer, point, state.x_adv),
            distance=ops.where(closer, distance, state.distance),
            done=state.done | ends,
        )


def _squares(delta):
    return ops.sum(ops.square(delta), axis=tuple(range(1, len(delta.shape))))
