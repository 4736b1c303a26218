"""The base class of the penalty attacks C&W and EAD."""

import typing

from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_numbers
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.attack_loss import zero_gradient
from keras_robust.attacks.minimum_norm.binary_search import WeightTrial
from keras_robust.attacks.minimum_norm.binary_search import smallest
from keras_robust.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import select

# The descent of an example ends when its loss falls by less than this over a tenth of the steps.
_NUM_CHECKS = 10
_PROGRESS = 0.9999


class WeightedProblem(typing.NamedTuple):
    """The problem for one weight per example; `hinge` is that of `make_hinge`."""

    x: object
    threat_model: object
    weight: object
    hinge: object


class _State(typing.NamedTuple):
    """The descent for one weight; `x_adv` and `size` belong to the smallest mistake so far."""

    memory: object
    x_adv: object
    size: object
    loss: object
    checked: object  # The loss at the last check of progress.
    done: object
    queries: object


class PenaltyAttack(MinimumNormAttack):
    """Minimizes `penalty(delta) + c * hinge`, and searches `c` for each example.

    The arguments are those of `CarliniWagner`. A subclass writes `start`, `step` and `penalty`. It
    overrides `size` if the mistakes are to be compared by something else than the penalty.
    `queries_per_step` is the number of queries of one step.
    """

    queries_per_step = 2

    def __init__(
        self,
        *,
        num_steps=1000,
        search_steps=9,
        initial_weight=1e-3,
        learning_rate=1e-2,
        confidence=0.0,
        targeted=False,
    ):
        check_counts(num_steps=num_steps, search_steps=search_steps)
        check_numbers(initial_weight=initial_weight, learning_rate=learning_rate)
        check_numbers(or_zero=True, confidence=confidence)
        check_choice("targeted", targeted, (True, False, "least_likely"))
        self.num_steps = num_steps
        self.search_steps = search_steps
        self.initial_weight = initial_weight
        self.learning_rate = learning_rate
        self.confidence = confidence
        self.targeted = targeted

    def start(self, x, threat_model):
        """Returns the memory of the descent before the first step."""
        raise NotImplementedError

    def step(self, step, memory, problem):
        """Returns the memory after one step, and one point with its hinge and hits.

        Args:
            step: int or int32 tensor `()`, from 0.
            memory: the memory that `start` or the last step returned.
            problem: a `WeightedProblem`.

        Returns:
            The new memory, the point, and its `hinge` and `hits`.
        """
        raise NotImplementedError

    def penalty(self, delta):
        """Returns the size of the perturbation in the objective, shape `(batch_size,)`."""
        raise NotImplementedError

    def size(self, delta):
        """Returns the size by which mistakes are compared, shape `(batch_size,)`."""
        return self.penalty(delta)

    def nearest(self, problem):
        x, threat_model = problem.x, problem.threat_model
        _, success = make_attack_loss(problem, "margin", self.targeted)(x)
        hinge = make_hinge(problem, self.targeted, self.confidence)
        _, gradient = backend.value_and_input_gradient(hinge, x)

        def attempt(search):
            return self._descend(WeightedProblem(x, threat_model, search.weight, hinge), search)

        last = smallest(
            attempt,
            x,
            self.initial_weight,
            done=success,
            ends=lambda search: search.tries >= self.search_steps,
        )
        return AttackResult(
            x_adv=last.x_adv,
            loss=-last.size,
            success=ops.isfinite(last.size),
            # If the hinge is flat at `x`, the descent never moves, and all its gradients are zero.
            zero_gradient=zero_gradient(gradient) & ~success,
            queries=last.queries + 5,
        )

    def _descend(self, problem, search):
        """Returns `WeightTrial`, the smallest mistake of the descent for these weights."""
        # Progress is checked per block, so that one flat step does not end a descent.
        block_size = -(-self.num_steps // _NUM_CHECKS)

        def goes_on(block, state):
            return (block * block_size < self.num_steps) & ~ops.all(state.done)

        def body(block, state):
            first = block * block_size
            state = backend.repeat(
                block_size, lambda k, state: self._advance(first + k, state, problem), state
            )
            stops = state.loss > _PROGRESS * state.checked
            return block + 1, state._replace(done=state.done | stops, checked=state.loss)

        infinity = ops.full(ops.shape(problem.x)[:1], float("inf"), dtype="float32")
        memory = self.start(problem.x, problem.threat_model)
        queries = ops.cast(ops.zeros_like(infinity), "int32")
        state = _State(memory, problem.x, infinity, infinity, infinity, search.done, queries)
        _, last = backend.while_loop(goes_on, body, (0, state))
        return WeightTrial(last.x_adv, last.size, ops.isfinite(last.size), last.queries)

    def _advance(self, step, state, problem):
        memory, point, hinge, hits = self.step(step, state.memory, problem)
        delta = point - problem.x
        active = (step < self.num_steps) & ~state.done
        size = self.size(delta)
        closer = active & hits & (size < state.size)
        return _State(
            memory=memory,
            x_adv=select(closer, point, state.x_adv),
            size=ops.where(closer, size, state.size),
            loss=self.penalty(delta) + problem.weight * hinge,
            checked=state.checked,
            done=state.done,
            queries=state.queries + self.queries_per_step * ops.cast(active, "int32"),
        )


def make_hinge(problem, targeted, confidence):
    """Returns a function `point -> (hinge, hits)`, both of shape `(batch_size,)`.

    The hinge is `max(lead + confidence, 0)`. The lead is that of the label over all other classes
    or, if `targeted` is `True`, that of the other classes over the label. A hit is a success with
    at least the lead `confidence`; for `"least_likely"` any wrong class is a hit.

    Args:
        problem: a `SearchProblem`. Its `y` are the labels, the target labels if `targeted` is
            `True`, or `None` for the predictions.
        targeted: `False`, `True` or `"least_likely"`.
        confidence: float >= 0, in units of the logits.
    """
    classifier, y = problem.classifier, problem.y
    clean = ops.stop_gradient(classifier.logits(problem.x, y))
    labels = label_indices(y, clean)
    least_likely = ops.argmin(clean, axis=-1)

    def hinge(point):
        logits = classifier.logits(point, y)
        wrong_lead = losses.margin(labels, logits)
        is_label = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels)
        # The lead by which the example counts as a success.
        spare = -wrong_lead if targeted is True else wrong_lead
        lead = losses.margin(least_likely, logits) if targeted == "least_likely" else -spare
        hits = is_label if targeted is True else ~is_label
        hits = hits & (spare >= confidence) & ops.all(ops.isfinite(logits), axis=-1)
        return ops.maximum(lead + confidence, 0.0), hits

    return hinge


def hinge_gradient(problem, point):
    """Returns `(hinge, hits), gradient` at `point`, with non-finite gradients set to 0."""
    judged, gradient = backend.value_and_input_gradient(problem.hinge, point)
    return judged, ops.where(ops.isfinite(gradient), gradient, 0.0)
