"""The fast adaptive boundary attack (FAB), a minimum-norm attack."""

import typing

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.minimum_norm.minimum_norm_attack import NEVER
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import select
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

# `alpha_max`, `eta` and `beta` of the paper.
_MAX_BIAS = 0.1
_OVERSHOOT = 1.05
_BACKWARD = 0.9
_TINY = 1e-8
_SMALLEST_NORM = 1e-30


class _Tangent(typing.NamedTuple):
    """The lead of a class, its gradient, and the distance to where its tangent is 0."""

    distance: object
    lead: object
    gradient: object


class _State(typing.NamedTuple):
    """The latest point, the nearest misclassified point, and its distance."""

    x: object
    nearest: object
    distance: object
    zero_gradient: object


@keras.saving.register_keras_serializable(package="keras_robust")
class FAB(MinimumNormAttack):
    """Finds the nearest mistake in `L1`, `L2` or `Linf`: the fast adaptive boundary attack.

    At the point `x_k` the attack linearizes the lead `z_c - z_y` of the class `c` with the nearest
    boundary, measured by `|lead|` over the dual norm of its gradient. `d1` and `d2` are the
    shortest steps, inside the box, from `x_k` and from the clean example to where the tangent is 0,
    and `x_{k+1} = (1 - a)(x_k + 1.05 d1) + a (x + 1.05 d2)` with
    `a = min(|d1| / (|d1| + |d2|), 0.1)`. A misclassified point is kept if it is nearer than all
    earlier ones, and the search continues from `x + 0.9 (x_k - x)`. There is no step size to
    choose, and the result holds for every radius at once.

    The first search starts at the example, later ones at a random point half the radius away (one
    unit if the ball is infinite). Every step computes one gradient per wrong class. `TargetedFAB`
    computes one gradient in all; AutoAttack uses it if there are many classes.

    Deviations from the paper: the final search along a line is a bisection towards the clean
    example. Deviations from the authors' code, which has no final search: the step over a
    hyperplane is found by Newton's method (in `L1` by sorting), theirs by sorting and bisection;
    entries of the gradient up to 1e-8 count, theirs become 0; a restart in `L1` starts at a
    projected Gaussian, which is sparse, theirs is scaled; a nearest mistake outside of the ball is
    projected into it, where it may still be a mistake, while theirs counts as a failure; non-finite
    logits never count as a mistake, and the search then restarts at the example.

    Cost: `num_classes - 1` attack passes and one forward pass per restart and step, and 13 forward
    passes per restart to move the result back to the boundary.

    Args:
        num_steps: int, the number of steps. Defaults to `100`.
        num_restarts: int, the number of independent searches. Each visits only the examples that no
            earlier one broke inside the ball. Defaults to `1`.

    Raises:
        ValueError: for threat models without a single norm, such as those for several inputs.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> bias = np.array([-1.0, 1.0], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> found = kr.attacks.FAB(num_steps=20).run(
    ...     lambda x: x @ weights + bias, x, y, kr.L2(0.5, bounds=None))
    >>> print(np.round(found.x_adv, 2), np.round(-found.loss, 2))
    [[0.4 0.3]] [0.22]

    References:
        - [Croce and Hein, 2020](https://arxiv.org/abs/1907.02044)
    """

    def __init__(self, *, num_steps=100, num_restarts=1):
        check_counts(num_steps=num_steps, num_restarts=num_restarts)
        self.num_steps = num_steps
        self.num_restarts = num_restarts

    def nearest(self, problem):
        classifier, x, y = problem.classifier, problem.x, problem.y
        threat_model = problem.threat_model
        clean = ops.stop_gradient(classifier.logits(x, y))
        labels = label_indices(y, clean)
        linearise = self.linearisation(problem, labels, clean)

        def body(_, state):
            lead, gradient = linearise(state.x)
            point = _advance(state.x, x, lead, gradient, threat_model)
            logits = classifier.logits(point, y)
            wrong = ops.not_equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels)
            wrong = ops.logical_and(wrong, ops.all(ops.isfinite(logits), axis=-1))
            distance = threat_model.distance(point, x)
            nearer = ops.logical_and(wrong, distance < state.distance)
            return _State(
                # From a mistake the search continues closer to the example.
                x=select(wrong, x + _BACKWARD * (point - x), point),
                nearest=select(nearer, point, state.nearest),
                distance=ops.where(nearer, distance, state.distance),
                zero_gradient=ops.logical_and(state.zero_gradient, zero_gradient(gradient)),
            )

        never = ops.full(ops.shape(x)[:1], NEVER, dtype="float32")
        start = self._start(problem)
        state = _State(start, x, never, ops.ones_like(never, dtype="bool"))
        last = backend.repeat(self.num_steps, body, state)
        passes = 1 + self.num_steps * (1 + 2 * self.num_gradients(clean.shape[-1]))
        return AttackResult(
            x_adv=last.nearest,
            loss=-last.distance,
            success=last.distance < NEVER,
            zero_gradient=last.zero_gradient,
            queries=counted(ops.shape(x)[:1], passes),
        )

    def num_gradients(self, num_classes):
        """Returns the number of gradients that one step computes."""
        return num_classes - 1

    def linearisation(self, problem, labels, clean):
        """Returns a function `x -> (lead, gradient)` for the class with the nearest boundary.

        The lead is not finite where the outputs of the model are not.

        Args:
            problem: a `SearchProblem`.
            labels: int tensor `(batch_size,)`, the true classes.
            clean: float tensor `(batch_size, num_classes)`, the clean logits.
        """
        classifier, y, threat_model = problem.classifier, problem.y, problem.threat_model
        num_classes = clean.shape[-1]

        def linearise(x):
            def compare(index, nearest):
                # `index` counts the wrong classes in order, skipping the label.
                targets = index + ops.cast(index >= labels, "int32")
                lead, gradient = lead_and_gradient(classifier, x, y, labels, targets)
                slope = ops.maximum(threat_model.dual_norm(gradient), _SMALLEST_NORM)
                latest = _Tangent(ops.abs(lead) / slope, lead, gradient)
                return choose(latest.distance < nearest.distance, latest, nearest)

            shape = ops.shape(x)[:1]
            far, unknown = (ops.full(shape, value, dtype="float32") for value in (NEVER, np.nan))
            # A NaN lead marks that no class has been compared yet.
            never = _Tangent(far, unknown, ops.zeros_like(x))
            nearest = backend.fori_loop(0, num_classes - 1, compare, never)
            return nearest.lead, nearest.gradient

        return linearise

    def _start(self, problem):
        x, threat_model = problem.x, problem.threat_model
        if self.num_restarts == 1:
            return x
        radius = ops.where(ops.isinf(threat_model.radius), 1.0, 0.5 * threat_model.radius)
        start = threat_model.with_epsilon(radius).random_start_on_sphere(x, problem.seed)
        # The first search starts at the example.
        return ops.where(ops.equal(problem.restart, 0), x, start)


def lead_and_gradient(classifier, x, y, labels, targets):
    """Returns `z_t - z_y` at `x` and its gradient, with non-finite entries set to 0."""

    def lead(point):
        return losses.lead_of(targets, labels, classifier.logits(point, y)), ()

    (value, _), gradient = backend.value_and_input_gradient(lead, x)
    return value, ops.where(ops.isfinite(gradient), gradient, 0.0)


def _advance(x_adv, x, lead, gradient, threat_model):
    """Returns the next point: across the hyperplane, with a bias towards the clean example.

    Without a finite lead it is the clean example, because NaN would spread to all later points.
    """
    is_known = ops.isfinite(lead)
    lead = ops.where(is_known, lead, 0.0)
    x_adv = select(is_known, x_adv, x)
    gradient = select(is_known, gradient, ops.zeros_like(gradient))
    offset = ops.sum(flatten(gradient * (x_adv - x)), axis=-1)
    from_here = threat_model.project_onto_hyperplane(x_adv, gradient, -lead)
    from_clean = threat_model.project_onto_hyperplane(x, gradient, offset - lead)
    here = ops.maximum(threat_model.distance(from_here, ops.zeros_like(x)), _TINY)
    there = ops.maximum(threat_model.distance(from_clean, ops.zeros_like(x)), _TINY)
    share = per_example(ops.minimum(here / (here + there), _MAX_BIAS), x)
    point = (1.0 - share) * (x_adv + _OVERSHOOT * from_here)
    point = point + share * (x + _OVERSHOOT * from_clean)
    return ops.stop_gradient(threat_model.clip(point))
