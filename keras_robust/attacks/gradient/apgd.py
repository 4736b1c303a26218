"""Auto-PGD: projected gradient ascent with adaptive step sizes."""

import math
import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import averaged_gradient
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.gradient.apgd_schedules import HalvingSchedule
from keras_robust.attacks.gradient.apgd_schedules import SparseSchedule
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.attacks.result import counted

_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # Factor of the radius, and share of the steps.
_LOSSES = ("cross_entropy", "dlr", "margin", "probability_margin", "soft_margin")


class _Point(typing.NamedTuple):
    """A point, its loss and the gradient of its loss."""

    x: object
    loss: object
    gradient: object


class _State(typing.NamedTuple):
    """The state of the loop."""

    here: _Point
    x_before: object
    best: _Point
    broken: _Point  # The latest misclassified point, without its gradient.
    success: object
    zero_gradient: object
    memory: object


@keras.saving.register_keras_serializable(package="keras_robust")
class APGD(Attack):
    """Auto-PGD: PGD that adapts its step size, the main attack of AutoAttack.

    `z = project(x_k + s u_k)`, `x_{k+1} = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1}))`,
    where `u_k` is the steepest ascent direction of the loss. The step size `s` starts at twice the
    radius. There are checkpoints at shrinking intervals (after 22, 41, 57, 70, 80, 87, 93 and 99 of
    100 steps). At each one, an example whose loss rose in too few steps halves its step size and
    returns to its best point. In `L1` the steps are sparse and have no momentum; the best point
    determines the share of coordinates that a step moves. The number of steps is the only thing to
    tune.

    With the cross-entropy this is APGD-CE, with `"dlr"` APGD-DLR; APGD-T is `TargetedAPGD`. The
    result is the last misclassified point of an example, or its point of highest loss if none was
    misclassified.

    Deviations from the authors' code: every step in `L2` is projected exactly onto the intersection
    of ball and box, whereas theirs is scaled and then clipped; non-finite logits never count as
    success; an example that is not broken is returned as its best point, whereas theirs is returned
    unchanged; under expectation over transformation the loss is averaged like the gradient. As in
    their code, the first checkpoint compares the loss of the first step with 0.

    Cost: `num_steps + 1` attack passes and two forward passes per restart.

    Args:
        num_steps: int, the number of gradient steps. With fewer than 50 the step size has no time
            to adapt. Defaults to `100`.
        num_restarts: int, the number of independent searches. Each visits only the examples that no
            earlier one broke. Defaults to `1`.
        loss: the loss to maximize: `"cross_entropy"`, `"dlr"` (at least 3 classes), `"margin"`,
            `"probability_margin"`, `"soft_margin"`, or a function `(y, logits) -> (batch_size,)`.
            Defaults to `"cross_entropy"`.
        eot_samples: int, the number of passes over which the gradient is averaged (expectation over
            transformation). Use more than one for models with random layers. Defaults to `1`.
        shrinking: bool, whether the search runs in balls of 3, 2 and 1 times the radius, with 30,
            30 and 40% of the steps. Each phase starts from the best point of the previous one.
            AutoAttack uses this in `L1`. Defaults to `False`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> x_adv = kr.attacks.APGD()(lambda x: x @ weights, x, y, kr.Linf(0.1))
    >>> print(np.round(x_adv, 3))
    [[0.4 0.4]]

    References:
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690)
        - [Croce and Hein, 2021](https://arxiv.org/abs/2103.01208), for `L1`.
    """

    tolerates_rounding = True

    def __init__(
        self,
        *,
        num_steps=100,
        num_restarts=1,
        loss="cross_entropy",
        eot_samples=1,
        shrinking=False,
    ):
        check_counts(num_steps=num_steps, num_restarts=num_restarts, eot_samples=eot_samples)
        if not callable(loss) and loss not in _LOSSES:
            raise ValueError(
                f"Argument `loss` must be one of {_LOSSES} or a function. Received: {loss!r}"
            )
        self.num_steps = num_steps
        self.num_restarts = num_restarts
        self.loss = loss
        self.eot_samples = eot_samples
        check_choice("shrinking", shrinking, (True, False))
        self.shrinking = shrinking

    def attack_loss(self, problem):
        """Returns the function `x_adv -> (loss, success)` of this search."""
        return make_attack_loss(problem, self.loss, False)

    def search(self, problem):
        x, seed = problem.x, problem.seed
        score = self.attack_loss(problem)
        phases = _phases(self.num_steps) if self.shrinking else [(1.0, self.num_steps)]
        start, state, has_zero_gradient = None, None, True
        for factor, num_steps in phases:
            ball = problem.threat_model.scaled(factor)
            # The first phase starts at random, later ones at the best point so far.
            start = (
                ball.random_start_on_sphere(x, seed) if state is None else ball.project(start, x)
            )
            is_new = not self.shrinking
            state = self._climb(score, x, start, ball, num_steps, is_new)
            start = state.best.x
            has_zero_gradient = ops.logical_and(has_zero_gradient, state.zero_gradient)
        if not problem.keep_best:
            return AttackResult.unattacked(state.best.x)._replace(zero_gradient=has_zero_gradient)
        best = choose(state.success, state.broken, _without_gradient(state.best))
        loss, success = best.loss, state.success
        if self.eot_samples > 1:
            # A random model errs eventually, so score the best point again.
            loss, success = score(best.x)
        queries = counted(ops.shape(x)[:1], self._count_queries(len(phases)))
        found = AttackResult(best.x, loss, success, has_zero_gradient, queries)
        found = self.leave_mistakes(self.score_clean(problem, score), found)
        return found._replace(zero_gradient=has_zero_gradient)

    def _count_queries(self, num_phases):
        # Two passes over the clean examples, and one to score a random model again.
        num_judgements = 3 if self.eot_samples > 1 else 2
        return num_judgements + 2 * self.eot_samples * (self.num_steps + num_phases)

    def _climb(self, score, x, start, threat_model, num_steps, is_new):
        """Returns the last `_State` of a search in one ball."""
        make_schedule = SparseSchedule if threat_model.has_sparse_steps else HalvingSchedule
        schedule = make_schedule(threat_model, x, num_steps, is_new)

        def evaluate(point):
            point = ops.stop_gradient(point)
            (loss, success), gradient = averaged_gradient(score, point, self.eot_samples)
            return _Point(point, loss, gradient), success

        def body(index, state):
            here = state.here
            point = schedule.move(state.memory, here.x, state.x_before, here.gradient, index)
            new, success = evaluate(point)
            best = choose(new.loss > state.best.loss, new, state.best)
            rose = new.loss > here.loss
            memory, goes_back = schedule.adapt(state.memory, index, rose, best.loss, best.x)
            return _State(
                # The next step compares with the new loss, even after a return to the best point.
                here=choose(goes_back, best, new)._replace(loss=new.loss),
                x_before=here.x,
                best=best,
                broken=choose(success, _without_gradient(new), state.broken),
                success=ops.logical_or(success, state.success),
                zero_gradient=ops.logical_and(state.zero_gradient, zero_gradient(new.gradient)),
                memory=memory,
            )

        first, success = evaluate(start)
        state = _State(
            # The authors compare the first loss with 0.
            here=first._replace(loss=ops.zeros_like(first.loss)),
            x_before=first.x,
            best=first,
            broken=_without_gradient(first),
            success=success,
            zero_gradient=zero_gradient(first.gradient),
            memory=schedule.first(first.x, first.loss),
        )
        return backend.repeat(num_steps, body, state)


def _without_gradient(point):
    return point._replace(gradient=ops.zeros_like(point.loss))


def _phases(num_steps):
    """Returns pairs of a factor of the radius and a number of steps, which sum to `num_steps`."""
    counts = [math.ceil(share * num_steps) for _, share in _PHASES[:-1]]
    counts.append(num_steps - sum(counts))
    pairs = zip(_PHASES, counts, strict=True)
    return [(factor, count) for (factor, _), count in pairs if count]
