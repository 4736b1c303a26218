"""The loop that gradient attacks share: gradient, direction, step, projection."""

import fractions
import typing

from keras import ops

from keras_robust import backend
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack_loss import LOSSES
from keras_robust.attacks.attack_loss import averaged_gradient
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import strongest

_GAUSSIAN_STDDEV = 0.001


class _State(typing.NamedTuple):
    """The state of the loop: the point, the attack's memory, the best point (or `()`)."""

    x_adv: object
    memory: object
    best: object
    zero_gradient: object


class IterativeAttack(Attack):
    """A base class that loops `x_adv <- project(step(x_adv, direction(gradient), step_size))`.

    The arguments are those of `PGD`. The class attribute `relative_step` is the default step size
    in units of `epsilon / num_steps`. A subclass sets defaults and may override two methods.
    `direction(gradient, memory)` returns the vector to ascend and the new memory; only its
    direction matters, because `step` of the threat model gives it the length `step_size`.
    `memory(x)` returns the first memory, by default `()`. Rarely, a subclass overrides
    `start(x, threat_model, seed)`, the first point, or `project(x_adv, x, threat_model)`, the last
    part of every step.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> class Masked(kr.attacks.IterativeAttack):
    ...     def direction(self, gradient, memory):
    ...         return gradient * np.array([1.0, 0.0], "float32"), memory
    >>> x, y = np.array([[0.5, 0.4]], "float32"), np.array([0])
    >>> print(np.round(Masked(random_start=False)(lambda x: x, x, y, kr.Linf(0.2)), 2))
    [[0.3 0.4]]
    """

    relative_step = 1.0
    tolerates_rounding = True

    def __init__(
        self,
        *,
        num_steps=10,
        step_size=None,
        random_start=True,
        num_restarts=1,
        targeted=False,
        loss=None,
        eot_samples=1,
    ):
        check_counts(num_steps=num_steps, num_restarts=num_restarts, eot_samples=eot_samples)
        check_choice("random_start", random_start, (True, False, "gaussian"))
        check_choice("targeted", targeted, (True, False, "least_likely"))
        if not callable(loss):
            check_choice("loss", loss, LOSSES)
        if num_restarts > 1 and (not random_start or loss == "compiled"):
            raise ValueError(
                "Restarts need a random start, so that they differ, and a loss per example, so "
                f"that they can be compared. Received: num_restarts={num_restarts}, "
                f"random_start={random_start!r}, loss={loss!r}"
            )
        if loss == "kl" and (targeted or not random_start):
            raise ValueError(
                'The loss "kl" has no gradient at the clean example. It needs a random start, and '
                f"has no targets. Received: random_start={random_start!r}, targeted={targeted!r}"
            )
        self.num_steps = num_steps
        self.step_size = step_size
        self.random_start = random_start
        self.num_restarts = num_restarts
        self.targeted = targeted
        self.loss = loss
        self.eot_samples = eot_samples
        self._step_size = None if step_size is None else _parse_step_size(step_size)

    @property
    def parsed_step_size(self):
        """The step size that was given, as a float, or `None`."""
        return self._step_size

    def memory(self, x):
        """Returns the memory that `direction` gets in the first step."""
        return ()

    def direction(self, gradient, memory):
        """Returns the vector to ascend and the new memory."""
        return gradient, memory

    def start(self, x, threat_model, seed):
        """Returns the first point."""
        if self.random_start == "gaussian":
            noise = _GAUSSIAN_STDDEV * backend.normal(ops.shape(x), seed)
            return threat_model.project(x + noise, x)
        return threat_model.random_start(x, seed) if self.random_start else x

    def project(self, x_adv, x, threat_model):
        """Returns the feasible point for `x_adv`, the point that a step has reached."""
        return threat_model.project(x_adv, x)

    def search(self, problem):
        x, threat_model, keep_best = problem.x, problem.threat_model, problem.keep_best
        score = make_attack_loss(problem, self.loss, self.targeted)
        step_size = self._step_size
        if step_size is None:
            # Computed here, because inside a train step the radius is a tensor.
            step_size = self.relative_step / self.num_steps * threat_model.radius
        shape = ops.shape(x)[:1]
        all_false = ops.zeros(shape, dtype="bool")
        clean = self.score_clean(problem, score) if keep_best else ()

        def body(_, state):
            (loss, success), gradient = averaged_gradient(score, state.x_adv, self.eot_samples)
            ascent, memory = self.direction(gradient, state.memory)
            moved = threat_model.step(state.x_adv, ascent, step_size)
            x_adv = self.project(moved, x, threat_model)
            here = AttackResult(
                state.x_adv, loss, success, all_false, counted(shape, 2 * self.eot_samples)
            )
            return _State(
                # Gradients must not flow through earlier steps.
                x_adv=ops.stop_gradient(x_adv),
                memory=memory,
                best=strongest(state.best, here) if keep_best else (),
                zero_gradient=ops.logical_and(state.zero_gradient, zero_gradient(gradient)),
            )

        start = self.start(x, threat_model, problem.seed)
        state = _State(start, self.memory(x), clean, ops.logical_not(all_false))
        last = backend.repeat(self.num_steps, body, state)
        if not keep_best:
            return AttackResult.unattacked(last.x_adv)._replace(zero_gradient=last.zero_gradient)
        best = strongest(last.best, AttackResult.scored(last.x_adv, score, queries=1))
        return self.leave_mistakes(clean, best)._replace(zero_gradient=last.zero_gradient)


def _parse_step_size(step_size):
    try:
        value = float(fractions.Fraction(step_size)) if isinstance(step_size, str) else step_size
        if 0.0 < float(value) < float("inf"):
            return float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        pass
    raise ValueError(
        "Argument `step_size` must be a positive number or a string such as '2/255'. "
        f"Received: step_size={step_size!r}"
    )
