"""HopSkipJump: the nearest mistake, from nothing but the decisions of the model."""

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

_FIRST_RADIUS = 0.1
_SMALLEST_NOISE = 1e-6
_BISECTIONS = (10, 20)
_HALVINGS = 20


class _State(typing.NamedTuple):
    """What the loop carries, with one entry per example."""

    x_adv: object
    jump: object  # How far away the last step led, before the bisection.
    best: object
    distance: object  # Of the best point.
    queries: object
    draws: object  # A number, how often random numbers were drawn.


@keras.saving.register_keras_serializable(package="keras_robust")
class HopSkipJump(MinimumNormAttack):
    """The nearest mistake, from the class alone that the model decides for.

    At a point `x_t` on the boundary, the decisions `phi = +1` (wrong) or `-1` on random points of a
    small sphere tell the direction of the boundary:
    `g = mean((phi(x_t + delta u_b) - mean(phi)) u_b)`. A step of length `||x_t - x|| / sqrt(t)`
    along `g` (`L2`) or `sign(g)` (`Linf`), halved until the point is wrong, and a bisection back to
    `x` lead to the next point on the boundary. No logit and no gradient is looked at, so that it
    also works on models that round, saturate or hide them; where it finds nearer mistakes than
    gradient attacks do, those have failed. It takes some 35,000 queries by default, and most of the
    way in the first 1,000. It ends at the boundary of the class that noise led to: restarts, which
    lead to other classes, are worth more than steps. For a convolutional network on 8x8 digits the
    median distance in `L2` is 0.77 after 1,000 queries, 0.71 after 64 steps, and 0.58 with 10
    restarts of 20 steps, as with `FMN`.

    Number of points of step `t`: `min(initial_samples sqrt(t), max_samples)`, rounded up to whole
    passes of `samples_per_pass`. A search starts at uniform draws from the box until one is wrong.
    If none of `num_starts` is, as happens for the class that a model sees in all noise, the example
    stays as it is, without success.

    Deviations from the authors' code: the nearest point met is returned, not the last; a bisection
    takes 10 to 20 halvings, where theirs ends at the tolerance `gamma / d^(3/2)` (`L2`) or
    `gamma / d^2` (`Linf`), which is crude for small `d` and below float32 for large; `delta` never
    moves a coordinate by less than 1e-6 of the box; a step that 20 halvings do not make wrong is
    left out, where theirs go on for ever; no targets. As in it, and unlike in foolbox, which
    divides by one norm over the batch, every example has a direction of length 1.

    Cost: forward passes alone, about `2/3 initial_samples num_steps^(3/2)`, 10 to 40 for each step,
    and 13 at the end. A pass runs the model on `samples_per_pass` points for each example of a
    batch at a time: where memory is short, lower `batch_size`. BatchNorm statistics see none of it.

    Args:
        num_steps: int >= 1. Defaults to `64`.
        initial_samples: int >= 1, points that estimate the first direction. Defaults to `100`.
        max_samples: int >= 1, points for one direction at most. Defaults to `10000`.
        gamma: float > 0; the radius is `delta = gamma / d` of the last distance, with `d` the
            number of coordinates. Defaults to `1.0`.
        num_restarts: int >= 1, searches from other starts, of which the nearest mistake counts.
            Defaults to `1`.
        num_starts: int >= 1, draws for a first mistake at most. Defaults to `1000`.
        samples_per_pass: int >= 1. Defaults to `20`.

    Raises:
        ValueError: for arguments out of range, for a threat model that is not a plain `L2` or
            `Linf` or has no bounds, and for a model that is no classifier.

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

    def nearest(self, classifier, x, y, threat_model, seed, restart):
        check_supported(self, threat_model, (L2, Linf))
        decisions = DecisionOracle(classifier, x, y, threat_model.bounds)
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

        x_adv = _to_boundary(decisions, x, start.x_adv, threat_model, num_bisections)
        state = _State(
            x_adv=x_adv,
            jump=threat_model.distance(start.x_adv, x),
            best=x_adv,
            distance=threat_model.distance(x_adv, x),
            queries=start.queries + asked * num_bisections + 1,
            draws=ops.convert_to_tensor(self.num_starts, "int32"),
        )
        num_steps = self.num_steps * ops.cast(ops.any(start.found), "int32")
        last = backend.fori_loop(0, num_steps, body, state)
        never = ops.zeros_like(start.found)
        loss = ops.where(start.found, -last.distance, -NEVER)
        return AttackResult(last.best, loss, start.found, never, last.queries)

    def _passes(self):
        """Returns how many passes every step takes."""
        wanted = self.initial_samples * np.sqrt(np.arange(1, self.num_steps + 1))
        samples = np.minimum(wanted.astype("int64"), self.max_samples)
        return np.maximum(-(-samples // self.samples_per_pass), 1)

    def _num_bisections(self, x, threat_model):
        size = math.prod(x.shape[1:])
        tolerance = self.gamma / size ** (2.0 if isinstance(threat_model, Linf) else 1.5)
        return int(np.clip(math.ceil(-math.log2(tolerance)), *_BISECTIONS))

    def _direction(self, decisions, step, num_passes, draw, state):
        """Estimates the direction in which the model errs, shape of `x`."""
        low, high = decisions.bounds
        width, size = ops.mean(high - low), math.prod(state.x_adv.shape[1:])
        radius = ops.where(step == 0, _FIRST_RADIUS * width, self.gamma / size * state.jump)
        radius = ops.maximum(radius, _SMALLEST_NOISE * math.sqrt(size) * width)
        return boundary_direction(
            decisions, state.x_adv, radius, lambda number: draw(state.draws + number), num_passes
        )


def _step(decisions, x_adv, update, length, active):
    """Steps along `update`, by half of `length` as often as the point is not wrong.

    Returns the new points, or the old ones where none was wrong, and the queries.
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
    """Moves wrong points towards `x`, as the norm measures it, up to the boundary."""
    if isinstance(threat_model, Linf):
        distance = threat_model.distance(x_adv, x)

        def path(share):
            reach = per_example(share * distance, x)
            return ops.clip(x_adv, x - reach, x + reach)

    else:

        def path(share):
            return interpolate(x, x_adv, share)

    return bisect(decisions, path, x, num_bisections)
