"""What every evaluation asks of its own number, at next to no cost."""

import numpy as np
import scipy.stats

from keras_robust import models
from keras_robust.evaluation.checks.chance import measure_chance
from keras_robust.evaluation.checks.check import Check
from keras_robust.evaluation.metrics.curve import median_distance
from keras_robust.threat_models.units import size_of

_SAME = 1e-4
_BLIND_SHARE = 0.01
_BLACK_BOX_GAIN = 0.002
_UNBOUNDED_SHARE = 0.01
_FILLED = 0.1
_NUM_EXAMPLES = 256
_LEVEL = 0.05


def cheap_checks(model, worst, plan, reports, threat_model, batch_size):
    """Returns the list of `Check` that `evaluate` puts beside its number.

    Args:
        model: as `evaluate` takes it.
        worst: the `WorstCase` after all turns.
        plan: list of `PlannedAttack`.
        reports: list of `AttackReport`, one for each of them.
        threat_model: a `ThreatModel`.
        batch_size: int.
    """
    pairs = list(zip(plan, reports, strict=True))
    checks = [
        check_determinism(model, worst.x, worst.logits, batch_size),
        check_logits(model, worst.logits),
        check_bounds(worst.x, threat_model),
        check_epsilon(worst.x, threat_model, worst.distances),
        _check_gradients(pairs, int(worst.correct.sum())),
        _check_black_box(pairs, worst.correct),
        _check_unbounded(pairs, worst),
    ]
    return checks


def check_chance(labels, logits):
    """Whether the model classifies at all; see `measure_chance`."""
    name, chance = "clean accuracy", measure_chance(labels, np.argmax(logits, axis=-1))
    if chance is None:
        return Check(name, None, None, "skipped", "All examples are of one class.")
    return make_check(name, chance.accuracy, chance.limit, not chance.doubt, chance.doubt)


def check_determinism(model, x, logits, batch_size):
    """Whether a second pass gives the same logits as the first, up to 1e-4 of their length.

    The second pass is on a batch of the same size, in which the first half of the examples stands
    twice: an example must not depend on the others in its batch.
    """
    size = min(len(logits), batch_size, _NUM_EXAMPLES)
    some = np.arange((size + 1) // 2)
    twice = np.concatenate([some, some[: size // 2]])
    again = models.predict_logits(model, models.take(x, twice), batch_size)[: len(some)]
    length = np.maximum(np.linalg.norm(logits[some], axis=-1), 1e-12)
    change = float((np.linalg.norm(again - logits[some], axis=-1) / length).max())
    return make_check(
        "deterministic outputs",
        change,
        _SAME,
        change <= _SAME,
        "The answer to an example changes with the pass, or with the other examples in its batch. "
        "BatchNormalization must not be called with training=True. For a random model use "
        'attacks="rand", which averages gradients, and judge by the majority of repeated '
        "predictions.",
    )


def check_logits(model, logits):
    """Whether a callable returns logits, and no probabilities, whose gradients vanish."""
    name = "logits"
    if getattr(model, "loss", None) is not None:
        return Check(name, None, None, "passed", "")
    share = float(np.mean(np.asarray(models.rows_of_probabilities(logits))))
    return make_check(
        name,
        share,
        0.5,
        share <= 0.5,
        "The outputs look like probabilities: every row is positive and sums to 1. Gradients "
        "vanish where they saturate; return logits instead.",
    )


def check_bounds(x, threat_model):
    """Whether the inputs fill more than a tenth of the box that they are said to come from."""
    name = "input bounds"
    width = np.inf
    if threat_model.bounds is not None and hasattr(x, "min"):
        low, high = (np.asarray(bound, "float64") for bound in threat_model.bounds)
        width = np.max(high - low)
    if not np.isfinite(width):
        return Check(name, None, None, "skipped", "There is no one box.")
    filled = float((x.max() - x.min()) / width)
    return make_check(
        name,
        filled,
        _FILLED,
        filled > _FILLED,
        "The inputs fill a small part of the box of the threat model, as if they had other units. "
        "Give `bounds` and `epsilon` in the units of the inputs.",
    )


def check_epsilon(x, threat_model, distances=None):
    """Whether the radius is in the units of the inputs; see `threat_models.units.size_of`."""
    name = "size of epsilon"
    median = None if distances is None else median_distance(distances)
    sizes = []

    def measure(leaf, name, ball):
        if ball is not None:
            sizes.append(size_of(ball, leaf.shape[1:], _extent(leaf), median or 0.0))
        return leaf

    threat_model.map_inputs(measure, x)
    sizes = [size for size in sizes if size is not None]
    if not sizes:
        return Check(name, None, None, "skipped", "There is no radius in the units of the inputs.")
    small = min(sizes, key=lambda size: size.epsilon / size.least)
    large = max(sizes, key=lambda size: size.epsilon / size.most)
    if large.epsilon > large.most:
        return make_check(name, large.epsilon, large.most, False, large.complaint)
    return make_check(name, small.epsilon, small.least, small.complaint is None, small.complaint)


def _extent(x):
    """Returns the range of most values of the first inputs, or of all where that is nothing."""
    x = np.asarray(x[:_NUM_EXAMPLES], "float64")
    low, high = np.quantile(x, [0.01, 0.99])
    return (low, high) if low < high else (x.min(), x.max())


def _check_gradients(pairs, num_correct):
    name = "gradients"
    shares = [
        report.zero_gradient
        for planned, report in pairs
        if report.num_attacked and planned.attack.uses_gradients
    ]
    if not shares:
        return Check(name, None, _BLIND_SHARE, "skipped", "No attack with gradients ran.")
    share = max(shares)
    return make_count_check(
        name,
        share,
        _BLIND_SHARE,
        num_correct,
        f"An attack saw only zero gradients on {share:.1%} of the examples: its accuracy is too "
        "high to believe. Believe the margin loss more, let the model return logits, give rounding "
        'layers a gradient (BPDA), or use attacks="black_box".',
    )


def _check_black_box(pairs, correct):
    """Whether an attack without gradients broke what those with gradients left."""
    name, gain, seen = "black box", 0.0, False
    is_white, accuracy = False, correct.mean()
    for planned, report in pairs:
        if not planned.attack.uses_gradients:
            if is_white:
                gain, seen = gain + accuracy - report.accuracy_so_far, True
        elif not planned.is_unbounded:
            is_white = True
        accuracy = report.accuracy_so_far
    if not seen:
        return Check(name, None, _BLACK_BOX_GAIN, "skipped", "No such attack ran after another.")
    return make_count_check(
        name,
        gain,
        _BLACK_BOX_GAIN,
        len(correct),
        f"Attacks without gradients broke {gain:.1%} more than those with gradients, which points "
        "to masked gradients. Attack the model with its rounding or random layers replaced (BPDA, "
        "expectation over transformation), and with more queries.",
    )


def _check_unbounded(pairs, worst):
    name = "unbounded attack"
    searches = [planned for planned, _ in pairs if planned.is_unbounded]
    if not searches or worst.distances is None:
        return Check(name, None, _UNBOUNDED_SHARE, "skipped", "No search for minimum norms ran.")
    share = float(np.isinf(worst.distances).mean())
    return make_count_check(
        name,
        share,
        _UNBOUNDED_SHARE,
        len(worst.distances),
        f"Without a limit on the perturbation {share:.1%} of the examples still hold, which no "
        "model can do: the attacks fail, not the attacker. Look for masked gradients.",
    )


def make_check(name, value, threshold, is_passed, advice):
    """Returns a `Check` that gives its advice if it failed only."""
    verdict = "passed" if is_passed else "failed"
    return Check(name, value, threshold, verdict, "" if is_passed else advice)


def make_count_check(name, share, tolerated, count, advice):
    """Returns a `Check` of a share of `count` examples, which fails by a binomial test.

    It fails if a model with exactly the tolerated share would show so many examples, or more, with
    a probability below 5%; the threshold is the largest share that passes.
    """
    threshold = scipy.stats.binom.isf(_LEVEL, max(count, 1), tolerated) / max(count, 1)
    # Differences of shares have rounding errors.
    return make_check(name, share, threshold, share <= threshold + 1e-9, advice)
