"""HopSkipJump: a minimum-norm attack that needs only the predicted class."""

import math
import typing

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.decision_based.boundary_direction import boundary_direction
from keras_robust.attacks.decision_based.boundary_direction import random_directions
from keras_robust.attacks.decision_based.decision_oracle import DecisionOracle
from keras_robust.attacks.decision_based.decision_oracle import bisect
from keras_robust.attacks.decision_based.decision_oracle import check_supported
from keras_robust.attacks.decision_based.decision_oracle import initial_adversarial
from keras_robust.attacks.decision_based.decision_oracle import interpolate
from keras_robust.attacks.minimum_norm.minimum_norm_attack import NEVER
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import select
from keras_robust.threat_models.l2 import L2
from keras_robust.threat_models.linf import Linf
from keras_robust.threat_models.threat_model import per_example

# As a share of the width of the box, as in the authors' code.
_FIRST_RADIUS = 0.1
_SMALLEST_NOISE = 1e-6
_BISECTIONS = (10, 20)
_HALVINGS = 20


class _State(typing.NamedTuple):
    """The state of the loop, with one entry per example."""

    x_adv: object
    jump: object  # The distance after the last step, before the bisection.
    best: object
    distance: object  # The distance of the best point.
    queries: object
    draws: object  # A scalar, how often random numbers were drawn.


@keras.saving.register_keras_serializable(package="keras_robust")
class HopSkipJump(MinimumNormAttack):
    """Finds the nearest mistake from the predicted class alone.

    At a point `x_t` on the boundary, the decisions `phi = +1` (misclassified) or `-1` at random
    points of a small sphere estimate the normal of the boundary:
    `g = mean((phi(x_t + delta u_b) - mean(phi)) u_b)`. Then follows a step of length
    `||x_t - x|| / sqrt(t)` along `g` (`L2`) or `sign(g)` (`Linf`), halved until the point is
    misclassified. A bisection towards `x` leads to the next point on the boundary. The attack uses
    no logits and no gradients, so that it also works on models that round, saturate or hide them.
    Where it finds nearer mistakes than gradient attacks do, the gradient attacks have failed. By
    default a search takes some 35,000 queries, and makes most of its progress in the first 1,000.
    It ends at the boundary of the class that the random start belongs to. Restarts, which lead to
    other classes, help more than additional steps. For a convolutional network on 8x8 digits the
    median distance in `L2` is 0.77 after 1,000 queries, 0.71 after 64 steps, and 0.58 with 10
    restarts of 20 steps, the same as with `FMN`.

    Step `t` uses `min(initial_samples sqrt(t), max_samples)` points, rounded up to whole passes of
    `samples_per_pass`. To start, points are drawn uniformly from the box until one is
    misclassified. If none of `num_starts` points is misclassified, the example is returned
    unchanged, without success. This happens to examples of the class that the model predicts for
    all noise.

    Deviations from the authors' code: the nearest point visited is returned, not the last; a
    bisection takes 10 to 20 steps, whereas theirs ends at the tolerance `gamma / d^(3/2)` (`L2`) or
    `gamma / d^2` (`Linf`), which is crude for small `d` and below float32 for large `d`; `delta`
    never moves a coordinate by less than 1e-6 of the box; a step that is still not misclassified
    after 20 halvings is skipped, whereas theirs continues forever; there are no targets. As in
    their code, every example has a direction of length 1; foolbox divides by one norm over the
    batch.

    Cost: forward passes only, about `2/3 initial_samples num_steps^(3/2)`, 10 to 40 for each step,
    and 13 at the end. One pass runs the model on `samples_per_pass` points for every example of a
    batch. If memory is short, lower `batch_size`. BatchNorm statistics are not updated.

    Args:
        num_steps: int >= 1, the number of steps. Defaults to `64`.
        initial_samples: int >= 1, the number of points for the estimate of the first direction.
            Defaults to `100`.
        max_samples: int >= 1, the maximal number of points for one direction. Defaults to `10000`.
        gamma: float > 0. The radius of the small sphere is `delta = gamma / d` times the last
            distance, with `d` the number of coordinates. Defaults to `1.0`.
        num_restarts: int >= 1, the number of searches from different starts. The nearest mistake of
            all searches is the result. Defaults to `1`.
        num_starts: int >= 1, the maximal number of draws for the first mistake. Defaults to `1000`.
        samples_per_pass: int >= 1, the number of points per example in one forward pass. Defaults
            to `20`.

    Raises:
        ValueError: for arguments out of range, for a threat model that is not a plain `L2` or
            `Linf` or has no bounds, and for a model that is not a classifier.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.6, 0.4]], "float32"), np.array([0])
    >>> attack = kr.attacks.HopSkipJump(num_steps=12)
    >>> def decide(x):
    ...     return keras.ops.one_hot(keras.ops.argmax(x, axis=-1), 2)
    >>> print(np.round(attack(decide, x, y, kr.L2(0.5)), 1))
    [[0.5 0.5]]

    References:
        - [Chen et al., 2020](https://arxiv.org/abs/1904.02144)
        - [authors' code](https://github.com/Jianbo-Lab/HSJA)
    """

    uses_gradients = False
    confidence = None

    def __init__(
        self,
        *,
        num_steps=64,
        initial_samples=100,
        max_samples=10000,
        gamma=1.0,
        num_restarts=1,
        num_starts=1000,
        samples_per_pass=20,
    ):
        check_counts(
            num_steps=num_steps,
            initial_samples=initial_samples,
            max_samples=max_samples,
            num_restarts=num_restarts,
            num_starts=num_starts,
            samples_per_pass=samples_per_pass,
        )
        check_numbers(gamma=gamma)
        self.num_steps = num_steps
        self.initial_samples = initial_samples
        self.max_samples = max_samples
        self.gamma = gamma
        self.num_restarts = num_restarts
        self.num_starts = num_starts
        self.samples_per_pass = samples_per_pass

    def nearest(self, problem):
        x, threat_model, seed = problem.x, problem.threat_model, problem.seed
        check_supported(self, threat_model, (L2, Linf))
        decisions = DecisionOracle(problem.classifier, x, problem.y, threat_model.bounds)
        start = initial_adversarial(decisions, x, seed, self.num_starts)
        asked = ops.cast(start.found, "int32")
        num_bisections = self._num_bisections(x, threat_model)
        is_cube = isinstance(threat_model, Linf)
        draw = random_directions(x, self.samples_per_pass, seed, is_cube)
        passes = ops.convert_to_tensor(self._passes(), dtype="int32")

        def body(step, state):
            direction = self._direction(decisions, step, passes[step], draw, state)
            update = threat_model.steepest_direction(direction)
            length = threat_model.distance(state.x_adv, x) / ops.sqrt(ops.cast(step + 1, "float32"))
            moved, tries = _step(decisions, state.x_adv, update, length, start.found)
            x_adv = _to_boundary(decisions, x, moved, threat_model, num_bisections)
            distance = threat_model.distance(x_adv, x)
            closer = distance < state.distance
            samples = self.samples_per_pass * passes[step]
            return _State(
                x_adv=x_adv,
                jump=threat_model.distance(moved, x),
                best=select(closer, x_adv, state.best),
                distance=ops.minimum(distance, state.distance),
                queries=state.queries + tries + asked * (samples + num_bisections),
                draws=state.draws + passes[step],
            )

        state = self._first_state(decisions, start, x, threat_model, num_bisections)
        # Without any start there is nothing to improve.
        num_steps = self.num_steps * ops.cast(ops.any(start.found), "int32")
        last = backend.fori_loop(0, num_steps, body, state)
        all_false = ops.zeros_like(start.found)
        loss = ops.where(start.found, -last.distance, -NEVER)
        return AttackResult(last.best, loss, start.found, all_false, last.queries)

    def _first_state(self, decisions, start, x, threat_model, num_bisections):
        """Returns the state before the first step, with the start moved to the boundary."""
        x_adv = _to_boundary(decisions, x, start.x_adv, threat_model, num_bisections)
        return _State(
            x_adv=x_adv,
            jump=threat_model.distance(start.x_adv, x),
            best=x_adv,
            distance=threat_model.distance(x_adv, x),
            queries=start.queries + ops.cast(start.found, "int32") * num_bisections + 1,
            draws=ops.convert_to_tensor(self.num_starts, "int32"),
        )

    def _passes(self):
        """Returns the number of passes of every step, an int array."""
        wanted = self.initial_samples * np.sqrt(np.arange(1, self.num_steps + 1))
        samples = np.minimum(wanted.astype("int64"), self.max_samples)
        return np.maximum(-(-samples // self.samples_per_pass), 1)

    def _num_bisections(self, x, threat_model):
        size = math.prod(x.shape[1:])
        tolerance = self.gamma / size ** (2.0 if isinstance(threat_model, Linf) else 1.5)
        return int(np.clip(math.ceil(-math.log2(tolerance)), *_BISECTIONS))

    def _direction(self, decisions, step, num_passes, draw, state):
        """Returns an estimate of the direction across the boundary, with the shape of `x`."""
        low, high = decisions.bounds
        width, size = ops.mean(high - low), math.prod(state.x_adv.shape[1:])
        # Before the first step there is no jump to derive the radius from.
        radius = ops.where(step == 0, _FIRST_RADIUS * width, self.gamma / size * state.jump)
        radius = ops.maximum(radius, _SMALLEST_NOISE * math.sqrt(size) * width)
        return boundary_direction(
            decisions, state.x_adv, radius, lambda number: draw(state.draws + number), num_passes
        )


def _step(decisions, x_adv, update, length, active):
    """Returns the points after a step along `update`, and the queries of each example.

    The length is halved until the point is misclassified. If that never happens, the old point is
    returned.
    """

    def unfinished(number, _, todo, __):
        return ops.logical_and(number < _HALVINGS, ops.any(todo))

    def attempt(number, moved, todo, queries):
        share = length * 0.5 ** ops.cast(number, "float32")
        point = decisions.clip(x_adv + per_example(share, x_adv) * update)
        hits = ops.logical_and(todo, decisions.wrong(point))
        queries = queries + ops.cast(todo, "int32")
        return number + 1, select(hits, point, moved), ops.logical_and(todo, ~hits), queries

    state = (
        ops.convert_to_tensor(0, "int32"),
        x_adv,
        active,
        ops.zeros_like(active, dtype="int32"),
    )
    _, moved, _, queries = backend.while_loop(unfinished, attempt, state)
    return moved, queries


def _to_boundary(decisions, x, x_adv, threat_model, num_bisections):
    """Returns misclassified points moved towards `x` in the norm, up to the boundary."""
    if isinstance(threat_model, Linf):
        distance = threat_model.distance(x_adv, x)

        def path(share):
            reach = per_example(share * distance, x)
            return ops.clip(x_adv, x - reach, x + reach)

    else:

        def path(share):
            return interpolate(x, x_adv, share)

    return bisect(decisions, path, x, num_bisections)
