"""Questions to ask before a robust accuracy is believed."""

import keras
import numpy as np
from keras import ops

from keras_robust import attacks
from keras_robust import backend
from keras_robust.attacks.examples import check_examples
from keras_robust.attacks.examples import to_arrays
from keras_robust.evaluation.attack_report import AttackReport
from keras_robust.evaluation.cheap_checks import check_bounds
from keras_robust.evaluation.cheap_checks import check_determinism
from keras_robust.evaluation.cheap_checks import check_logits
from keras_robust.evaluation.cheap_checks import make_check
from keras_robust.evaluation.check import Check
from keras_robust.evaluation.labels import check_labels
from keras_robust.evaluation.labels import check_threat_model
from keras_robust.evaluation.sanity_report import SanityReport
from keras_robust.evaluation.suite import can_measure

_STEPS = 40
_RANDOM_QUERIES = 500
_NEAR = 0.01  # Of the radius.
_NO_BALL = "It needs a plain L1, L2 or Linf with one radius, and a box."


def sanity_check(
    model,
    data,
    threat_model="linf",
    *,
    num_examples=128,
    batch_size=128,
    seed=0,
    surrogate=None,
):
    """Asks the questions that tell real robustness from attacks that fail.

    | check | fails when |
    |---|---|
    | deterministic outputs | two forward passes differ |
    | logits | a callable returns probabilities |
    | input bounds | the inputs fill a small part of the box |
    | gradients | input gradients are zero, NaN, or not there at all |
    | stable outputs | the logits jump under noise of a hundredth of the radius |
    | epsilon 0 | an attack with radius 0 changes the accuracy |
    | reported success | an attack says that it won, and the model disagrees, or the reverse |
    | iterative beats one-step | FGSM breaks more than PGD |
    | loss choice | PGD on the margin breaks much more than on the cross-entropy |
    | convergence | twice as many steps break more |
    | monotone in epsilon | a larger ball leaves more examples robust |
    | unbounded attack | PGD in the whole box leaves examples robust |
    | random noise | random points break what attacks with gradients leave |
    | black box | `Square` breaks what attacks with gradients leave |
    | transfer | points that break a surrogate break what attacks with gradients leave |

    Those with gradients are PGD-40 on cross-entropy and margin, and APGD-T with 40 steps on three
    targets.

    Args:
        model: as in `evaluate`.
        data: as in `evaluate`.
        threat_model: as in `evaluate`. Defaults to `"linf"`.
        num_examples: int, the first so many examples; `None` for all. Defaults to `128`.
        batch_size: int. Defaults to `128`.
        seed: int, of the random numbers. Defaults to `0`.
        surrogate: a model for the same task, such as one trained without a defence, whose
            adversarial examples are tried; `None` to skip the check. Defaults to `None`.

    Returns:
        A `SanityReport`, a list of `Check` with a figure, a threshold, a verdict and what to do
        next. Verdicts on few examples are coarse: one of 128 is 0.8%.

    Raises:
        ValueError: for what `evaluate` raises it for. A model without gradients is no error here:
            the check says so.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> def saturated(x):
    ...     return keras.ops.softmax(1000.0 * (x - 0.5))
    >>> x = np.random.default_rng(0).uniform(size=(64, 2)).astype("float32")
    >>> import keras
    >>> y = x.argmax(-1)
    >>> print([check.name for check in kr.sanity_check(saturated, (x, y), kr.Linf(0.1)).failed][:2])
    ['logits', 'gradients']

    References:
        - [Carlini et al., 2019](https://arxiv.org/abs/1902.06705), the checklist.
        - [Athalye et al., 2018](https://arxiv.org/abs/1802.00420), symptoms of masked gradients.
        - [Pintor et al., 2022](https://arxiv.org/abs/2106.09947), indicators of attack failure.
    """
    threat_model = check_threat_model(threat_model)
    x, y = check_examples(*to_arrays(data, num_examples), threat_model)
    logits = backend.predict_logits(model, x, batch_size)
    trials = _Trials(model, x, check_labels(y, logits), threat_model, logits, batch_size, seed)
    checks = [
        check_determinism(model, x, logits, batch_size),
        check_logits(model, logits),
        check_bounds(x, threat_model),
        _check_stability(trials),
    ]
    checks += _gradient_checks(trials)
    checks += [
        _check_beaten(
            trials, "random noise", attacks.RandomNoise(num_samples=_RANDOM_QUERIES), 0.0
        ),
        _check_beaten(trials, "black box", attacks.Square(num_queries=_RANDOM_QUERIES), 0.01),
        _check_transfer(trials, surrogate),
    ]
    return SanityReport(checks)


class _Trials:
    """Attacks on the same examples, each run once."""

    def __init__(self, model, x, y, threat_model, logits, batch_size, seed):
        self.model, self.x, self.y, self.logits = model, x, y, logits
        self.threat_model, self.batch_size, self.seed = threat_model, batch_size, seed
        self.correct = np.argmax(logits, axis=-1) == y
        self._done = {}

    def found(self, attack, ball=None):
        """Returns `Found` of an attack."""
        ball = ball or self.threat_model
        key = repr((attack, ball))
        if key not in self._done:
            arguments = {"batch_size": self.batch_size, "seed": self.seed}
            self._done[key] = attack.run(self.model, self.x, self.y, ball, **arguments)
        return self._done[key]

    def accuracy(self, attack, ball=None):
        """Returns the share of the examples that an attack leaves correctly classified."""
        return float((self.correct & ~self.found(attack, ball).success).mean())

    def white_box(self):
        """Returns which examples attacks with gradients leave correctly classified."""
        others = self.logits.shape[-1] - 1
        targeted = attacks.TargetedAPGD(
            num_targets=min(others, 3), num_steps=_STEPS, loss="dlr" if others > 2 else "margin"
        )
        suite = (_pgd("cross_entropy"), _pgd("margin"), targeted)
        return self.correct & ~np.any([self.found(attack).success for attack in suite], axis=0)


def _pgd(loss, num_steps=_STEPS):
    return attacks.PGD(num_steps=num_steps, loss=loss)


def _gradient_checks(trials):
    """The checks that need gradients, or one that says that there are none."""
    try:
        blind = trials.found(attacks.FGSM(loss="cross_entropy")).zero_gradient
    except backend.NoGradientError as error:
        return [Check("gradients", 1.0, 0.01, "failed", str(error))]
    share = float(blind[trials.correct].mean()) if trials.correct.any() else 0.0
    checks = [
        make_check(
            "gradients",
            share,
            0.01,
            share <= 0.01,
            f"The gradient of the cross-entropy is zero or NaN on {share:.1%} of the examples. "
            "Return logits, use the margin loss, and give rounding layers a gradient (BPDA).",
        )
    ]
    return checks + [
        check(trials)
        for check in (
            _check_epsilon_zero,
            _check_reported_success,
            _check_one_step,
            _check_loss,
            _check_convergence,
            _check_monotone,
            _check_unbounded,
        )
    ]


def _check_stability(trials):
    """The mean relative change of the logits under uniform noise of a hundredth of the radius."""
    if not can_measure(trials.threat_model):
        return Check("stable outputs", None, 0.1, "skipped", _NO_BALL)
    seed = ops.convert_to_tensor([trials.seed, 1], "int32")
    ball = trials.threat_model.scaled(_NEAR)
    near = ops.convert_to_numpy(ball.random_start(backend.single(trials.x), seed))
    near = keras.tree.pack_sequence_as(trials.x, [near])
    change = backend.predict_logits(trials.model, near, trials.batch_size) - trials.logits
    length = np.maximum(np.linalg.norm(trials.logits, axis=-1), 1e-12)
    share = float(np.minimum(np.linalg.norm(change, axis=-1) / length, 1.0).mean())
    return make_check(
        "stable outputs",
        share,
        0.1,
        share <= 0.1,
        "The outputs jump under tiny noise, so that a gradient says little about the next step. "
        "Average gradients over noise, or replace the layer that quantises (BPDA).",
    )


def _check_epsilon_zero(trials):
    nothing = trials.threat_model.scaled(0.0)
    change = abs(trials.accuracy(_pgd("margin", 5), nothing) - float(trials.correct.mean()))
    return make_check(
        "epsilon 0",
        change,
        0.0,
        change == 0.0,
        "With nothing to change the accuracy is not the clean one. Is the model random, or does "
        "the data not lie within the bounds?",
    )


def _check_reported_success(trials):
    found = trials.found(_pgd("margin"))
    logits = backend.predict_logits(trials.model, found.x_adv, trials.batch_size)
    share = float((found.success != (np.argmax(logits, axis=-1) != trials.y)).mean())
    return make_check(
        "reported success",
        share,
        0.0,
        share == 0.0,
        "The model disagrees with the attack on what was broken, as random models do. Judge by the "
        "majority of repeated predictions.",
    )


def _check_one_step(trials):
    one_step = trials.accuracy(attacks.FGSM(loss="cross_entropy"))
    excess = trials.accuracy(_pgd("cross_entropy")) - one_step
    return make_check(
        "iterative beats one-step",
        excess,
        0.005,
        excess <= 0.005,
        "One step breaks more than many, as under masked gradients. Use more steps, smaller ones, "
        "other losses, and black-box attacks.",
    )


def _check_loss(trials):
    drop = trials.accuracy(_pgd("cross_entropy")) - trials.accuracy(_pgd("margin"))
    return make_check(
        "loss choice",
        drop,
        0.03,
        drop <= 0.03,
        "The margin breaks many more than the cross-entropy, which saturates. Believe no number "
        "that the cross-entropy alone gave.",
    )


def _check_convergence(trials):
    drop = trials.accuracy(_pgd("margin")) - trials.accuracy(_pgd("margin", 2 * _STEPS))
    return make_check(
        "convergence",
        drop,
        0.01,
        drop <= 0.01,
        f"{2 * _STEPS} steps break more than {_STEPS}: the attack has not converged. Use more "
        "steps and restarts.",
    )


def _check_monotone(trials):
    accuracies = [
        trials.accuracy(_pgd("margin"), trials.threat_model.scaled(factor))
        for factor in (0.5, 1.0, 2.0)
    ]
    rise = float(np.diff(accuracies).max())
    return make_check(
        "monotone in epsilon",
        rise,
        0.01,
        rise <= 0.01,
        "A larger ball leaves more examples robust, though it holds the smaller one: the attack "
        "fails. Look for masked gradients, and use more steps.",
    )


def _check_unbounded(trials):
    ball = trials.threat_model
    if not can_measure(ball) or ball.bounds is None:
        return Check("unbounded attack", None, 0.0, "skipped", _NO_BALL)
    one = backend.single(trials.x)[:1]
    low, high = (np.broadcast_to(bound, one.shape).astype("float32") for bound in ball.bounds)
    everything = ball.with_epsilon(float(ball.distance(high, low)[0]))
    left = trials.accuracy(_pgd("margin"), everything)
    return make_check(
        "unbounded attack",
        left,
        0.0,
        left == 0.0,
        f"In the whole box {left:.1%} of the examples hold, which no model can do: the attack "
        "fails. Look for masked gradients.",
    )


def _check_beaten(trials, name, attack, threshold):
    """Whether an attack without gradients breaks examples that those with gradients leave."""
    try:
        left = trials.white_box()
    except backend.NoGradientError:
        left = trials.correct
    try:
        beaten = float((left & trials.found(attack).success).mean())
    except ValueError as error:
        return Check(name, None, threshold, "skipped", str(error))
    return make_check(
        name,
        beaten,
        threshold,
        beaten <= threshold,
        f"{AttackReport.of(attack).label} breaks {beaten:.1%} of the examples, which attacks with "
        "gradients had left: masked gradients. Adapt the attack to the model (BPDA, other losses).",
    )


def _check_transfer(trials, surrogate):
    if surrogate is None:
        return Check("transfer", None, 0.01, "skipped", "No surrogate was given.")
    return _check_beaten(trials, "transfer", attacks.Transfer(surrogate, _pgd("margin")), 0.01)

