"""Questions about a model that it takes attacks to answer."""

import keras
import numpy as np
from keras import ops

from keras_robust import attacks
from keras_robust import backend
from keras_robust import models
from keras_robust import threat_models
from keras_robust.evaluation.black_box import BlackBox
from keras_robust.evaluation.checks.cheap_checks import make_check
from keras_robust.evaluation.checks.cheap_checks import make_count_check
from keras_robust.evaluation.checks.check import Check
from keras_robust.evaluation.plan import has_single_norm
from keras_robust.evaluation.reports.attack_report import AttackReport
from keras_robust.evaluation.validation import is_mistaken

_NEAR = 0.01  # Of the radius.
_RARE = 0.002  # The share of examples on which rounding may decide.

_BLACK_BOX = 'A black box has no gradients to compare with: judge it with attacks="black_box".'


def gradient_checks(cache):
    """Returns the list of `Check` that need gradients, or one that says that there are none."""
    if isinstance(cache.model, BlackBox):
        return [Check("gradients", None, 0.01, "skipped", _BLACK_BOX)]
    try:
        blind = cache.found(attacks.FGSM(loss="cross_entropy")).zero_gradient
    except backend.NoGradientError as error:
        return [Check("gradients", 1.0, 0.01, "failed", str(error))]
    share = float(blind[cache.correct].mean()) if cache.correct.any() else 0.0
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
    """The mean relative change of the logits under uniform noise of a hundredth of the radius."""
    ball = cache.threat_model
    if not has_single_norm(ball) or isinstance(ball, threat_models.L0):
        return Check("stable outputs", None, 0.1, "skipped", "It needs L1, L2 or Linf, one radius.")
    seed = ops.convert_to_tensor([cache.seed, 1], "int32")
    near = ops.convert_to_numpy(ball.scaled(_NEAR).random_start(models.single(cache.x), seed))
    near = keras.tree.pack_sequence_as(cache.x, [near])
    change = models.predict_logits(cache.model, near, cache.batch_size) - cache.logits
    length = np.maximum(np.linalg.norm(cache.logits, axis=-1), 1e-12)
    share = float(np.minimum(np.linalg.norm(change, axis=-1) / length, 1.0).mean())
    return make_check(
        "stable outputs",
        share,
        0.1,
        share <= 0.1,
        "The outputs jump under tiny noise, so that a gradient says little about the next step. "
        "Average gradients over noise, or replace the layer that quantises (BPDA).",
    )


def check_epsilon_zero(cache):
    """Whether an attack that may change nothing changes the accuracy."""
    nothing = cache.threat_model.scaled(0.0)
    left = cache.accuracy(attacks.PGD(num_steps=5, loss="margin"), nothing)
    change = abs(left - float(cache.correct.mean()))
    return make_count_check(
        "epsilon 0",
        change,
        _RARE,
        len(cache.y),
        "With nothing to change the accuracy is not the clean one. Is the model random, or does "
        "the data not lie within the bounds?",
    )


def check_reported_success(cache):
    """Whether the model disagrees with an attack on what it broke."""
    found = cache.found(cache.pgd("margin"))
    logits = models.predict_logits(cache.model, found.x_adv, cache.batch_size)
    share = float((found.success != is_mistaken(logits, cache.y)).mean())
    return make_count_check(
        "reported success",
        share,
        _RARE,
        len(cache.y),
        "The model disagrees with the attack on what was broken, as random models do. Judge by the "
        "majority of repeated predictions.",
    )


def check_one_step(cache):
    """Whether FGSM breaks more than PGD."""
    one_step = cache.accuracy(attacks.FGSM(loss="cross_entropy"))
    excess = cache.accuracy(cache.pgd("cross_entropy")) - one_step
    return make_count_check(
        "iterative beats one-step",
        excess,
        0.005,
        len(cache.y),
        "One step breaks more than many, as under masked gradients. Use more steps, smaller ones, "
        "other losses, and black-box attacks.",
    )


def check_overfitting(cache):
    """Whether PGD breaks far more than FGSM."""
    excess = cache.accuracy(attacks.FGSM(loss="cross_entropy"))
    excess -= cache.accuracy(cache.pgd("cross_entropy"))
    return make_count_check(
        "one step is not enough",
        excess,
        0.25,
        len(cache.y),
        "The model holds against one step and falls to many: it was trained on one-step attacks "
        "and overfitted to them. Train with a random start, CollapseGuard, GradAlign, or PGD.",
    )


def check_loss(cache):
    """Whether PGD breaks much more with the margin than with the cross-entropy."""
    drop = cache.accuracy(cache.pgd("cross_entropy")) - cache.accuracy(cache.pgd("margin"))
    return make_count_check(
        "loss choice",
        drop,
        0.03,
        len(cache.y),
        "The margin breaks many more than the cross-entropy, which saturates. Believe no number "
        "that the cross-entropy alone gave.",
    )


def check_convergence(cache):
    """Whether twice as many steps break more."""
    drop = cache.accuracy(cache.pgd("margin")) - cache.accuracy(cache.pgd("margin", times=2))
    return make_count_check(
        "convergence",
        drop,
        0.01,
        len(cache.y),
        f"{2 * cache.num_steps} steps break more than {cache.num_steps}: the attack has not "
        "converged. Use more steps and restarts.",
    )


def check_monotone(cache):
    """Whether a larger ball leaves more examples robust."""
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
        "A larger ball leaves more examples robust, though it holds the smaller one: the attack "
        "fails. Look for masked gradients, and use more steps.",
    )


def check_unbounded(cache):
    """Whether PGD in the whole box leaves examples robust."""
    ball = cache.threat_model
    if not has_single_norm(ball) or ball.bounds is None or not np.isfinite(ball.bounds).all():
        advice = "It needs a plain L0, L1, L2 or Linf with one radius, and a box."
        return Check("unbounded attack", None, 0.01, "skipped", advice)
    one = models.single(cache.x)[:1]
    low, high = (np.broadcast_to(bound, one.shape).astype("float32") for bound in ball.bounds)
    everything = ball.with_epsilon(float(ball.distance(high, low)[0]))
    left = cache.accuracy(cache.pgd("margin"), everything)
    return make_count_check(
        "unbounded attack",
        left,
        0.01,
        len(cache.y),
        f"In the whole box {left:.1%} of the examples hold, which no model can do: the attack "
        "fails. Look for masked gradients.",
    )


def check_beaten(cache, name, attack, tolerated):
    """Whether an attack without gradients breaks examples that those with gradients leave."""
    if isinstance(cache.model, BlackBox):
        return Check(name, None, tolerated, "skipped", _BLACK_BOX)
    try:
        left = cache.white_box()
    except backend.NoGradientError:
        left = cache.correct
    try:
        beaten = float((left & cache.found(attack).success).mean())
    except ValueError as error:
        return Check(name, None, tolerated, "skipped", str(error))
    return make_count_check(
        name,
        beaten,
        tolerated,
        len(cache.y),
        f"{AttackReport.of(attack).label} breaks {beaten:.1%} of the examples, which attacks with "
        "gradients had left: masked gradients. Adapt the attack to the model (BPDA, other losses).",
    )


def check_transfer(cache, transfer):
    """Whether points that break a surrogate break what attacks with gradients leave."""
    if transfer is None:
        return Check("transfer", None, 0.01, "skipped", "No surrogate was given.")
    return check_beaten(cache, "transfer", transfer, 0.01)
