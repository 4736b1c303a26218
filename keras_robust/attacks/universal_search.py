"""The search for one perturbation of all examples of a batch."""

import copy

from keras import ops

from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult


def search_universal(attack, problem):
    """Returns `AttackResult` of the examples with the one perturbation that an attack finds.

    The attack sees a batch of one example, the perturbation, whose loss is the mean over the batch.

    Args:
        attack: an `Attack`.
        problem: a `SearchProblem` whose threat model is `Universal`.

    Raises:
        ValueError: for an attack with several restarts or targets, and for one that does not
            maximize a loss.
    """
    if attack.num_restarts > 1:
        raise ValueError(
            "Searches are compared example by example, and would end in several perturbations. Use "
            "num_restarts=1 or num_targets=1, and compare calls with different seeds. "
            f"Received: {attack!r}, with {attack.num_restarts} searches, under Universal"
        )
    if not hasattr(attack, "loss"):
        raise ValueError(
            "Universal needs an attack that maximizes a loss, such as APGD() or PGD(). "
            f"Received: {attack!r}"
        )
    universal, x, classifier = problem.threat_model, problem.x, problem.classifier
    start, seed = universal.alone(x, problem.seed)
    shared = copy.copy(classifier)
    shared.pack = lambda delta: classifier.pack(universal.clip(x + delta))
    found = attack.search(
        problem._replace(
            classifier=shared, x=start, threat_model=universal.ball(), seed=seed, is_shared=True
        )
    )
    x_adv = universal.clip(x + found.x_adv)
    has_zero_gradient = ops.broadcast_to(found.zero_gradient, ops.shape(x)[:1])
    if not problem.keep_best:
        return AttackResult.unattacked(x_adv)._replace(zero_gradient=has_zero_gradient)
    loss, targeted = (getattr(attack, name, None) for name in ("loss", "targeted"))
    score = make_attack_loss(problem, loss, targeted or False)
    # Two queries for the clean examples and one for the result.
    result = AttackResult.scored(x_adv, score, queries=3)
    return result._replace(zero_gradient=has_zero_gradient, queries=result.queries + found.queries)
