"""Checks that run attacks."""

import keras
import numpy as np
from keras import ops

from keras_robust import attacks
from keras_robust import backend
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.worst_case import is_mistaken
from keras_robust.evaluation.black_box import BlackBox
from keras_robust.evaluation.checks.cheap_checks import make_check
from keras_robust.evaluation.checks.cheap_checks import make_count_check
from keras_robust.evaluation.checks.check import Check
from keras_robust.evaluation.plan import has_single_norm
from keras_robust.evaluation.reports.attack_report import AttackReport

_NEAR = 0.01  # The size of the noise, as a share of the radius.
_RARE = 0.002  # The share of examples whose prediction may change by rounding.

_BLACK_BOX = 'A black box has no gradients to compare with. Evaluate it with attacks="black_box".'


def gradient_checks(cache):
    """Returns the list of `Check` that need gradients, or one that fails if there are none."""
    if isinstance(cache.model, BlackBox):
        return [Check("gradients", None, 0.01, "skipped", _BLACK_BOX)]
    try:
        has_zero_gradient = cache.found(attacks.FGSM(loss="cross_entropy")).zero_gradient
    # A model without gradients is a result of the checks, not an error.
    except backend.NoGradientError as error:
        return [Check("gradients", 1.0, 0.01, "failed", str(error))]
    share = float(has_zero_gradient[cache.correct].mean()) if cache.correct.any() else 0.0
    checks = [
        make_count_check(
            "gradients",
            share,
            0.01,
            int(cache.correct.sum()),
            f"The gradient of the cross-entropy is zero or NaN on {share:.1%} of the examples. "
            "Return logits, use the margin loss, and give rounding layers a gradient (BPDA).",
        )
    ]
    return checks + [
        check(cache)
        for check in (
            check_epsilon_zero,
            check_reported_success,
            check_one_step,
            check_overfitting,
            check_loss,
            check_convergence,
            check_monotone,
            check_unbounded,
        )
    ]


def check_stability(cache):
    """Checks that the logits hardly change under uniform noise of a hundredth of the radius."""
    ball = cache.threat_model
    if not has_single_norm(ball) or isinstance(ball, threat_models.L0):
        advice = "This check needs L1, L2 or Linf with one radius."
        return Check("stable outputs", None, 0.1, "skipped", advice)
    seed = ops.convert_to_tensor([cache.seed, 1], "int32")
    near = ops.convert_to_numpy(ball.scaled(_NEAR).random_start(models.single(cache.x), seed))
    near = keras.tree.pack_sequence_as(cache.x, [near])
    change = models.predict_logits(cache.model, near, cache.batch_size) - cache.logits
    # Avoid a division by zero for a model that returns zeros.
    length = np.maximum(np.linalg.norm(cache.logits, axis=-1), 1e-12)
    # Capped, so that a single example with tiny logits does not decide the mean.
    share = float(np.minimum(np.linalg.norm(change, axis=-1) / length, 1.0).mean())
    return make_check(
        "stable outputs",
        share,
        0.1,
        share <= 0.1,
        "The outputs jump under tiny noise, so a gradient says little about the next step. "
        "Average gradients over noise, or replace the layer that quantizes (BPDA).",
    )


def check_epsilon_zero(cache):
    """Checks that an attack with radius 0 does not change the accuracy."""
    nothing = cache.threat_model.scaled(0.0)
    # Steps in a ball of radius 0 lead nowhere, so a few are enough.
    left = cache.accuracy(attacks.PGD(num_steps=5, loss="margin"), nothing)
    change = abs(left - float(cache.correct.mean()))
    return make_count_check(
        "epsilon 0",
        change,
        _RARE,
        len(cache.y),
        "An attack with radius 0 changes the accuracy. Check whether the model is random, and "
        "whether the data lies within the bounds.",
    )


def check_reported_success(cache):
    """Checks that the model agrees with an attack on which examples are broken."""
    found = cache.found(cache.pgd("margin"))
    logits = models.predict_logits(cache.model, found.x_adv, cache.batch_size)
    share = float((found.success != is_mistaken(logits, cache.y)).mean())
    return make_count_check(
        "reported success",
        share,
        _RARE,
        len(cache.y),
        "The model disagrees with the attack on which examples are broken, as random models do. "
        "Use the majority of repeated predictions.",
    )


def check_one_step(cache):
    """Checks that FGSM does not break more examples than PGD."""
    one_step = cache.accuracy(attacks.FGSM(loss="cross_entropy"))
    excess = cache.accuracy(cache.pgd("cross_entropy")) - one_step
    return make_count_check(
        "iterative beats one-step",
        excess,
        0.005,
        len(cache.y),
        "One step breaks more examples than many steps, a symptom of masked gradients. Use more "
        "and smaller steps, other losses, and black-box attacks.",
    )


def check_overfitting(cache):
    """Checks that PGD does not break far more examples than FGSM."""
    excess = cache.accuracy(attacks.FGSM(loss="cross_entropy"))
    excess -= cache.accuracy(cache.pgd("cross_entropy"))
    return make_count_check(
        "one step is not enough",
        excess,
        0.25,
        len(cache.y),
        "The model resists one step but not many steps: it overfitted to one-step attacks in "
        "training. Train with a random start, CollapseGuard, GradAlign, or PGD.",
    )


def check_loss(cache):
    """Checks that PGD on the margin does not break far more than PGD on the cross-entropy."""
    drop = cache.accuracy(cache.pgd("cross_entropy")) - cache.accuracy(cache.pgd("margin"))
    return make_count_check(
        "loss choice",
        drop,
        0.03,
        len(cache.y),
        "The margin breaks many more examples than the cross-entropy, which saturates. Do not "
        "trust a robust accuracy that was measured with the cross-entropy alone.",
    )


def check_convergence(cache):
    """Checks that twice as many steps do not break more examples."""
    drop = cache.accuracy(cache.pgd("margin")) - cache.accuracy(cache.pgd("margin", times=2))
    return make_count_check(
        "convergence",
        drop,
        0.01,
        len(cache.y),
        f"{2 * cache.num_steps} steps break more examples than {cache.num_steps}: the attack has "
        "not converged. Use more steps and restarts.",
    )


def check_monotone(cache):
    """Checks that a larger ball does not leave more examples robust."""
    accuracies = [
        cache.accuracy(cache.pgd("margin"), cache.threat_model.scaled(factor))
        for factor in (0.5, 1.0, 2.0)
    ]
    rise = float(np.diff(accuracies).max())
    return make_count_check(
        "monotone in epsilon",
        rise,
        0.01,
        len(cache.y),
        "A larger ball leaves more examples robust, although it contains the smaller ball: the "
        "attack fails. Look for masked gradients, and use more steps.",
    )


def check_unbounded(cache):
    """Checks that PGD in the whole box leaves no example robust."""
    ball = cache.threat_model
    if not has_single_norm(ball) or ball.bounds is None or not np.isfinite(ball.bounds).all():
        advice = "This check needs L0, L1, L2 or Linf with one radius and finite bounds."
        return Check("unbounded attack", None, 0.01, "skipped", advice)
    one = models.single(cache.x)[:1]
    # The distance of two opposite corners is a radius whose ball contains the whole box.
    low, high = (np.broadcast_to(bound, one.shape).astype("float32") for bound in ball.bounds)
    everything = ball.with_epsilon(float(ball.distance(high, low)[0]))
    left = cache.accuracy(cache.pgd("margin"), everything)
    return make_count_check(
        "unbounded attack",
        left,
        0.01,
        len(cache.y),
        f"{left:.1%} of the examples stay robust in the whole box, which no model can achieve: the "
        "attack fails. Look for masked gradients.",
    )


def check_beaten(cache, name, attack, tolerated):
    """Checks that an attack does not break examples on which gradient attacks failed."""
    if isinstance(cache.model, BlackBox):
        return Check(name, None, tolerated, "skipped", _BLACK_BOX)
    try:
        left = cache.white_box()
    except backend.NoGradientError:
        # Without gradients no gradient attack has broken anything.
        left = cache.correct
    try:
        beaten = float((left & cache.found(attack).success).mean())
    except ValueError as error:
        # The attack does not support this threat model.
        return Check(name, None, tolerated, "skipped", str(error))
    return make_count_check(
        name,
        beaten,
        tolerated,
        len(cache.y),
        f"{AttackReport.of(attack).label} breaks {beaten:.1%} of the examples, on which gradient "
        "attacks failed: masked gradients. Adapt the attack to the model (BPDA, other losses).",
    )


def check_transfer(cache, transfer):
    """Checks that a transfer attack does not break examples on which gradient attacks failed."""
    if transfer is None:
        return Check("transfer", None, 0.01, "skipped", "No surrogate was given.")
    return check_beaten(cache, "transfer", transfer, 0.01)
