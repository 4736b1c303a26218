"""Cheap checks, which every evaluation runs."""

import numpy as np
import scipy.stats

from keras_robust import models
from keras_robust.evaluation.checks.chance import measure_chance
from keras_robust.evaluation.checks.check import Check
from keras_robust.evaluation.metrics.curve import median_distance
from keras_robust.threat_models.units import size_of

_SAME = 1e-4  # Relative changes of the logits up to this size are rounding.
_ZERO_GRADIENT_SHARE = 0.01
_BLACK_BOX_GAIN = 0.002
_UNBOUNDED_SHARE = 0.01
_FILLED = 0.1
_NUM_EXAMPLES = 256
_LEVEL = 0.05  # The significance level of the binomial tests.


def cheap_checks(inputs, worst, plan, reports, batch_size):
    """Returns the list of `Check` that `evaluate` adds to its report.

    Args:
        inputs: the `EvaluationInputs`, all examples of the data.
        worst: the `WorstCase` after all attacks, on all examples or on those of a shard.
        plan: list of `PlannedAttack`.
        reports: list of `AttackReport`, one for each planned attack.
        batch_size: int.
    """
    return [
        check_determinism(inputs.model, inputs.x, inputs.logits, batch_size),
        check_logits(inputs.model, inputs.logits),
        check_bounds(inputs.x, inputs.threat_model),
        check_epsilon(inputs.x, inputs.threat_model, worst.distances),
        *outcome_checks(worst, plan, reports),
    ]


def outcome_checks(worst, plan, reports):
    """Returns the list of `Check` that follow from the results alone; arguments as above."""
    pairs = list(zip(plan, reports, strict=True))
    checks = [
        _check_gradients(pairs, int(worst.correct.sum())),
        _check_black_box(pairs, worst.correct),
        _check_unbounded(pairs, worst),
    ]
    return checks + [_check_proofs(pairs, worst)] * bool(worst.proved.any())


def check_chance(labels, logits):
    """Checks that clean accuracy is above chance; see `measure_chance`."""
    name, chance = "clean accuracy", measure_chance(labels, np.argmax(logits, axis=-1))
    if chance is None:
        return Check(name, None, None, "skipped", "All examples are of one class.")
    return make_check(name, chance.accuracy, chance.limit, not chance.warning, chance.warning)


def check_determinism(model, x, logits, batch_size):
    """Checks that a second pass returns the same logits, up to 1e-4 of their L2 norm.

    The second pass runs on a batch of the same size that contains the first half of the examples
    twice, because the logits of an example must not depend on the others in its batch.
    """
    size = min(len(logits), batch_size, _NUM_EXAMPLES)
    some = np.arange((size + 1) // 2)
    twice = np.concatenate([some, some[: size // 2]])
    again = models.predict_logits(model, models.take(x, twice), batch_size)[: len(some)]
    # Avoid a division by zero for a model that returns zeros.
    length = np.maximum(np.linalg.norm(logits[some], axis=-1), 1e-12)
    change = float((np.linalg.norm(again - logits[some], axis=-1) / length).max())
    return make_check(
        "deterministic outputs",
        change,
        _SAME,
        change <= _SAME,
        "The logits of an example change between passes, or with the other examples in its batch. "
        "BatchNormalization must not be called with training=True. For a random model use "
        'attacks="rand", which averages gradients, and the majority of repeated predictions.',
    )


def check_logits(model, logits):
    """Checks that a callable returns logits, because the gradients of probabilities vanish."""
    name = "logits"
    # The loss of a compiled model says whether the outputs are logits.
    if getattr(model, "loss", None) is not None:
        return Check(name, None, None, "passed", "")
    share = float(np.mean(np.asarray(models.rows_of_probabilities(logits))))
    return make_check(
        name,
        share,
        0.5,
        share <= 0.5,
        "The outputs look like probabilities: every row is positive and sums to 1. Their gradients "
        "vanish where they saturate, so return logits instead.",
    )


def check_bounds(x, threat_model):
    """Checks that the inputs fill more than a tenth of the box of the threat model."""
    name = "input bounds"
    width = np.inf
    # Only one array of inputs has one box; several inputs are a dict or a list.
    if threat_model.bounds is not None and hasattr(x, "min"):
        low, high = (np.asarray(bound, "float64") for bound in threat_model.bounds)
        width = np.max(high - low)
    if not np.isfinite(width):
        return Check(name, None, None, "skipped", "The threat model has no single finite box.")
    filled = float((x.max() - x.min()) / width)
    return make_check(
        name,
        filled,
        _FILLED,
        filled > _FILLED,
        "The inputs fill only a small part of the box of the threat model, as if they were in "
        "other units. Give `bounds` and `epsilon` in the units of the inputs.",
    )


def check_epsilon(x, threat_model, distances=None):
    """Checks that the radius is in the units of the inputs; see `threat_models.units.size_of`."""
    return check_sizes(sizes_of(x, threat_model), distances)


def sizes_of(x, threat_model):
    """Returns the list of the `Size` of the radius, one for each input that can be judged."""
    sizes = []

    def measure(leaf, name, ball):
        if ball is not None:
            sizes.append(size_of(ball, leaf.shape[1:], _extent(leaf)))
        return leaf

    threat_model.map_inputs(measure, x)
    return [size for size in sizes if size is not None]


def check_sizes(sizes, distances=None):
    """Checks sizes of the radius, given the distances of the nearest mistakes if they are known."""
    name = "size of epsilon"
    median = None if distances is None else median_distance(distances)
    sizes = [size.beyond(median or 0.0) for size in sizes]
    if not sizes:
        return Check(name, None, None, "skipped", "There is no radius in the units of the inputs.")
    small = min(sizes, key=lambda size: size.epsilon / size.least)
    large = max(sizes, key=lambda size: size.epsilon / size.most)
    if large.epsilon > large.most:
        return make_check(name, large.epsilon, large.most, False, large.complaint)
    return make_check(name, small.epsilon, small.least, small.complaint is None, small.complaint)


def _extent(x):
    """Returns the range of 98% of the values of the first inputs, or of all if it is empty."""
    x = np.asarray(x[:_NUM_EXAMPLES], "float64")
    # A few outliers must not hide that the inputs are in other units.
    low, high = np.quantile(x, [0.01, 0.99])
    return (low, high) if low < high else (x.min(), x.max())


def _check_gradients(pairs, num_correct):
    """Checks that the attacks with gradients found gradients that are not zero."""
    name = "gradients"
    shares = [
        report.zero_gradient
        for planned, report in pairs
        if report.num_attacked and planned.attack.uses_gradients
    ]
    if not shares:
        return Check(name, None, _ZERO_GRADIENT_SHARE, "skipped", "No attack with gradients ran.")
    share = max(shares)
    return make_count_check(
        name,
        share,
        _ZERO_GRADIENT_SHARE,
        num_correct,
        f"An attack found only zero gradients on {share:.1%} of the examples, so its accuracy is "
        "too high. Use the margin loss, let the model return logits, give rounding layers a "
        'gradient (BPDA), or use attacks="black_box".',
    )


def _check_black_box(pairs, correct):
    """Checks that attacks without gradients broke nothing that gradient attacks left robust."""
    name, gain, is_compared = "black box", 0.0, False
    had_gradients, accuracy = False, correct.mean()
    for planned, report in pairs:
        if not planned.attack.uses_gradients:
            if had_gradients:
                gain, is_compared = gain + accuracy - report.accuracy_so_far, True
        elif not planned.is_unbounded:
            had_gradients = True
        accuracy = report.accuracy_so_far
    if not is_compared:
        advice = "No attack without gradients ran after an attack with gradients."
        return Check(name, None, _BLACK_BOX_GAIN, "skipped", advice)
    return make_count_check(
        name,
        gain,
        _BLACK_BOX_GAIN,
        len(correct),
        f"Attacks without gradients broke another {gain:.1%} of the examples after those with "
        "gradients, a symptom of masked gradients. Attack the model with its rounding or random "
        "layers replaced (BPDA, expectation over transformation), and with more queries.",
    )


def _check_unbounded(pairs, worst):
    """Checks that the minimum-norm attack found a mistake for nearly every example."""
    name = "unbounded attack"
    searches = [planned for planned, _ in pairs if planned.is_unbounded]
    if not searches or worst.distances is None:
        return Check(name, None, _UNBOUNDED_SHARE, "skipped", "No minimum-norm attack ran.")
    share = float(np.isinf(worst.distances).mean())
    return make_count_check(
        name,
        share,
        _UNBOUNDED_SHARE,
        len(worst.distances),
        f"{share:.1%} of the examples stay robust without a limit on the perturbation, which no "
        "model can achieve: the attacks fail. Look for masked gradients.",
    )


def _check_proofs(pairs, worst):
    """Checks that no attack broke an example that a certificate proves robust."""
    name, refuted = "proofs", worst.proved & ~worst.robust
    # Only these run on proved examples.
    searched = any(planned.is_unbounded and report.num_attacked for planned, report in pairs)
    if not searched and not refuted.any():
        advice = (
            "No attack ran on a proved example: minimum-norm attacks do, others leave them out."
        )
        return Check(name, None, 0.0, "skipped", advice)
    row = np.argmax(refuted) if worst.numbers is None else worst.numbers[np.argmax(refuted)]
    return make_check(
        name,
        float(refuted.mean()),
        0.0,
        not refuted.any(),
        f"An attack broke {refuted.sum()} examples that a certificate had proved robust, the first "
        f"in row {row}: the certificate is unsound for this model, and no proof of "
        "this report holds. Evaluate without it. A reason may be arithmetic less precise than "
        "float32, such as TensorFloat-32, or a layer that does not compute what its class says.",
    )


def make_check(name, value, threshold, is_passed, advice):
    """Returns a `Check` that has its advice only if it failed."""
    verdict = "passed" if is_passed else "failed"
    return Check(name, value, threshold, verdict, "" if is_passed else advice)


def make_count_check(name, share, tolerated, count, advice):
    """Returns a `Check` of a share of `count` examples by a binomial test.

    The check fails if, at exactly the tolerated share, so many examples or more would have a
    probability below 5%. The threshold is the largest share that passes.
    """
    threshold = scipy.stats.binom.isf(_LEVEL, max(count, 1), tolerated) / max(count, 1)
    # Differences of shares have rounding errors.
    return make_check(name, share, threshold, share <= threshold + 1e-9, advice)
