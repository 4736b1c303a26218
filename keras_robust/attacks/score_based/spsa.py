"""SPSA: gradient ascent with gradients that are estimated from scores."""

import math
import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.attacks.adam import Adam
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.backend import counter_rng

_NOT_A_SCORE = 1e30


class _State(typing.NamedTuple):
    """The ascent after some steps: the point, the moments, and the best point so far."""

    step: object
    x_adv: object
    adam: object
    best: object


@keras.saving.register_keras_serializable(package="keras_robust")
class SPSA(Attack):
    """Ascends gradients that are estimated from the scores of random neighbors, with Adam.

    `g = 1 / m sum_i l(x_adv + delta v_i) v_i / delta`, with `m = num_samples` vectors `v_i` of
    random signs. One half of them are the negatives of the other half (Spall, 1992). Adam takes a
    step of up to about `learning_rate` in every coordinate, and the point is projected into the
    ball and the box, in every norm. Uesato et al. (2018) used it to break defenses that mask
    gradients. Use it for models without gradients, in addition to `Square`, which needs fewer
    queries. If it breaks examples that PGD does not, the gradients are masked.

    The neighbors may lie outside of the ball and the box by `delta`; only points inside count as
    success. A broken example keeps the point that broke it, and takes no further queries.

    Deviations from the paper: the attack stops at success, and uses 128 samples per step instead of
    up to 8192, both as in cleverhans. Deviations from cleverhans: every example has its own Adam
    state and random numbers, in batches of any size; the best point is returned.

    Cost: `num_steps * (num_samples + 1) + 2` forward passes, fewer if all examples of a batch are
    broken early. BatchNorm statistics are not updated.

    Args:
        num_steps: int >= 1, the number of Adam steps. Defaults to `100`.
        num_samples: even int >= 2, the number of neighbors per step. Defaults to `128`.
        learning_rate: float > 0, in units of the input. Defaults to `0.01`.
        delta: float > 0, the distance of the neighbors in every coordinate. Defaults to `0.01`.
        random_start: bool, whether to start at a random point of the ball. Defaults to `False`.
        num_restarts: int >= 1, the number of searches, which differ in their neighbors. Defaults to
            `1`.
        targeted: `False` moves away from `y`; `True` moves towards `y`; `"least_likely"` moves
            towards the class that the model finds least likely at `x`. Defaults to `False`.
        loss: the loss to maximize, a name in `keras_robust.losses.FUNCTIONS` or a function
            `(y, logits) -> (batch_size,)`. Defaults to `"margin"`.

    Raises:
        ValueError: for arguments out of range, and for a model that is not a classifier.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.6, 0.4]], "float32"), np.array([0])
    >>> attack = kr.attacks.SPSA(num_steps=20, num_samples=8)
    >>> print(np.round(attack(lambda x: 10.0 * x, x, y, kr.Linf(0.05)), 2))
    [[0.55 0.45]]

    References:
        - [Uesato et al., 2018](https://arxiv.org/abs/1802.05666)
        - [Spall, 1992](https://doi.org/10.1109/9.119632)
    """

    uses_gradients = False

    def __init__(
        self,
        *,
        num_steps=100,
        num_samples=128,
        learning_rate=0.01,
        delta=0.01,
        random_start=False,
        num_restarts=1,
        targeted=False,
        loss="margin",
    ):
        check_counts(num_steps=num_steps, num_restarts=num_restarts)
        if not isinstance(num_samples, int) or num_samples < 2 or num_samples % 2:
            raise ValueError(
                "Argument `num_samples` must be an even int >= 2, because neighbors come in "
                f"pairs. Received: {num_samples!r}"
            )
        check_numbers(learning_rate=learning_rate, delta=delta)
        check_choice("random_start", random_start, (True, False))
        check_choice("targeted", targeted, (True, False, "least_likely"))
        if not callable(loss):
            check_choice("loss", loss, tuple(losses.FUNCTIONS))
        self.num_steps = num_steps
        self.num_samples = num_samples
        self.learning_rate = learning_rate
        self.delta = delta
        self.random_start = random_start
        self.num_restarts = num_restarts
        self.targeted = targeted
        self.loss = loss

    def search(self, problem):
        x, threat_model, seed = problem.x, problem.threat_model, problem.seed
        score = make_attack_loss(problem, self.loss, self.targeted)
        keys = counter_rng.make_keys(seed, ops.shape(x)[0])
        best = self.score_clean(problem, score)
        start = threat_model.random_start(x, seed) if self.random_start else x

        def is_going_on(state):
            is_open = ops.logical_not(ops.all(state.best.success))
            return ops.logical_and(state.step < self.num_steps, is_open)

        def body(state):
            gradient = self._gradient(score, state.x_adv, keys, state.step)
            adam = state.adam.add(gradient)
            direction, size = adam.direction_and_size()
            ascent = self.learning_rate * direction / size
            x_adv = threat_model.project(state.x_adv + ascent, x)
            here = AttackResult.scored(x_adv, score, queries=self.num_samples + 1)
            best = _merge(state.best, here)
            return (_State(state.step + 1, ops.stop_gradient(x_adv), adam, best),)

        state = _State(0, start, Adam.empty(x), best)
        (last,) = backend.while_loop(is_going_on, body, (state,))
        return last.best

    def _gradient(self, score, x_adv, keys, step):
        """Returns the estimated gradient at `x_adv`, with its shape."""
        pairs = self.num_samples // 2

        def add(pair, total):
            # Every direction of every step has a counter of its own.
            direction = _signs(keys, step * pairs + pair, x_adv)
            # With both signs of a direction, the even terms of the loss cancel.
            (above, _), (below, _) = (
                score(x_adv + sign * self.delta * direction) for sign in (1.0, -1.0)
            )
            slope = above - below
            # The loss of non-finite logits is a huge constant, which says nothing about the slope.
            slope = ops.where(ops.abs(slope) < _NOT_A_SCORE, slope, 0.0)
            return total + ops.reshape(slope, (-1,) + (1,) * (len(x_adv.shape) - 1)) * direction

        total = backend.fori_loop(0, pairs, add, ops.zeros_like(x_adv))
        return total / (self.num_samples * self.delta)


def _signs(keys, counter, x):
    """Returns -1 or 1 for every entry of `x`."""
    bits = counter_rng.draw(keys, counter, math.prod(x.shape[1:]))
    return ops.reshape(counter_rng.signs(bits), ops.shape(x))


def _merge(best, here):
    """Returns the better point of each example; broken examples keep their point and queries."""
    is_better = ops.logical_or(here.success, here.loss > best.loss)
    is_open = ops.logical_not(best.success)
    queries = best.queries + ops.where(is_open, here.queries, 0)
    return choose(ops.logical_and(is_open, is_better), here, best)._replace(queries=queries)
