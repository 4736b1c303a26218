"""Sanity checks of a robust accuracy."""

from keras_robust import attacks
from keras_robust import models
from keras_robust.calls import with_argument_advice
from keras_robust.evaluation.cache import AttackCache
from keras_robust.evaluation.checks.attack_checks import check_beaten
from keras_robust.evaluation.checks.attack_checks import check_stability
from keras_robust.evaluation.checks.attack_checks import check_transfer
from keras_robust.evaluation.checks.attack_checks import gradient_checks
from keras_robust.evaluation.checks.cheap_checks import check_bounds
from keras_robust.evaluation.checks.cheap_checks import check_chance
from keras_robust.evaluation.checks.cheap_checks import check_determinism
from keras_robust.evaluation.checks.cheap_checks import check_epsilon
from keras_robust.evaluation.checks.cheap_checks import check_logits
from keras_robust.evaluation.inputs import EvaluationInputs
from keras_robust.evaluation.reports.sanity_report import SanityReport

_RANDOM_QUERIES = 500


@with_argument_advice
@models.with_own_noise
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
    """Runs checks that distinguish real robustness from attacks that fail.

    | check | fails when |
    |---|---|
    | clean accuracy | it is at chance, so that the other checks mean nothing |
    | deterministic outputs | two forward passes differ |
    | logits | a callable returns probabilities |
    | input bounds | the inputs fill only a small part of the box |
    | size of epsilon | the radius is less than half a gray level of the box |
    | stable outputs | the logits jump under noise of a hundredth of the radius |
    | gradients | input gradients are zero, NaN or missing |
    | epsilon 0 | an attack with radius 0 changes the accuracy |
    | reported success | an attack and the model disagree on which examples are broken |
    | iterative beats one-step | FGSM breaks more than PGD |
    | one step is not enough | PGD breaks far more than FGSM (catastrophic overfitting) |
    | loss choice | PGD on the margin breaks much more than on the cross-entropy |
    | convergence | twice as many steps break more |
    | monotone in epsilon | a larger ball leaves more examples robust |
    | unbounded attack | PGD in the whole box leaves examples robust |
    | random noise | random points break examples on which gradient attacks failed |
    | black box | `Square` breaks examples on which gradient attacks failed |
    | transfer | attacks on a surrogate break examples on which gradient attacks failed |

    The gradient attacks are PGD-40 on cross-entropy and margin, and APGD-T with 40 steps on three
    targets.

    Args:
        model: as in `evaluate`.
        data: as in `evaluate`.
        threat_model: as in `evaluate`. Defaults to `"linf"`.
        num_examples: int, checks only the first `num_examples` examples; `None` for all. Defaults
            to `128`.
        batch_size: int. Defaults to `128`.
        seed: int, the seed of the random numbers. Defaults to `0`.
        surrogate: a model for the same task, such as one trained without a defense. Its
            adversarial examples are tried on `model`; `None` skips this check. Defaults to `None`.

    Returns:
        A `SanityReport`, a list of `Check` with a value, a threshold, a verdict and advice. A check
        of a share of the examples is a binomial test: it fails if, at the tolerated share, so many
        examples would have a probability below 5%. Fewer examples give a larger threshold.

    Raises:
        ValueError: as in `evaluate`, except that a model without gradients only fails a check.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> def rounded(x):
    ...     return keras.ops.round(20.0 * x)
    >>> x = np.random.default_rng(0).uniform(size=(64, 2)).astype("float32")
    >>> report = kr.sanity_check(rounded, (x, x.argmax(-1)), kr.Linf(0.1))
    >>> print([check.name for check in report.failed])
    ['gradients', 'random noise', 'black box']

    References:
        - [Carlini et al., 2019](https://arxiv.org/abs/1902.06705), the checklist.
        - [Athalye et al., 2018](https://arxiv.org/abs/1802.00420), symptoms of masked gradients.
        - [Pintor et al., 2022](https://arxiv.org/abs/2106.09947), indicators of attack failure.
    """
    inputs = EvaluationInputs.of(
        model, data, threat_model, num_examples=num_examples, batch_size=batch_size
    )
    model, x, labels, threat_model, logits = inputs
    arguments = {"batch_size": batch_size, "seed": seed}
    cache = AttackCache(model, x, labels, threat_model, logits, **arguments)
    transfer = None if surrogate is None else attacks.Transfer(surrogate, cache.pgd("margin"))
    checks = [
        check_chance(labels, logits),
        check_determinism(model, x, logits, batch_size),
        check_logits(model, logits),
        check_bounds(x, threat_model),
        check_epsilon(x, threat_model),
        check_stability(cache),
    ]
    checks += gradient_checks(cache)
    noise = attacks.RandomNoise(num_samples=_RANDOM_QUERIES)
    checks += [
        check_beaten(cache, "random noise", noise, 0.002),
        check_beaten(cache, "black box", attacks.Square(num_queries=_RANDOM_QUERIES), 0.01),
        check_transfer(cache, transfer),
    ]
    return SanityReport(checks)
