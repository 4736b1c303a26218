"""Targeted Auto-PGD, which tries one target class after the other."""

import keras
from keras import ops

from keras_robust import losses
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import label_indices
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.gradient.apgd import APGD
from keras_robust.attacks.ranked_targets import nearest_target
from keras_robust.attacks.ranked_targets import num_candidates
from keras_robust.attacks.ranked_targets import ranked_target


@keras.saving.register_keras_serializable(package="keras_robust")
class TargetedAPGD(APGD):
    """Runs Auto-PGD towards each of the most likely wrong classes in turn: APGD-T of AutoAttack.

    It maximizes `-(z_y - z_t) / (z_p1 - (z_p3 + z_p4) / 2)`, the targeted difference of logits
    ratio, for the targets `t` ranked 2, 3, ... by the clean logits. Each target is one search with
    its own random start, on the examples that no earlier search broke. Any wrong class counts as
    success. On most models this is the strongest member of AutoAttack.

    With `ranking="malt"` the targets are ranked by the distance of their boundaries in a linear
    model, `(z_y - z_t) / ||grad(z_t - z_y)||_*` at the clean example, with the dual norm of the
    threat model, among the 100 most likely wrong classes. With many classes a likely class may be
    farther away than a less likely one. The same targets come in another order if there are at most
    `num_targets + 1` classes.

    Deviations from the authors' code: those of `APGD`; with fewer classes than targets, the classes
    are tried again from other starts (their code fails). Deviations from the authors' code of MALT:
    a class whose gradient is 0 comes last, whereas it comes first in theirs; every search ranks the
    targets again; any wrong class counts as success.

    Cost: `num_steps + 1` attack passes and two forward passes per target, and with `"malt"` one
    attack pass more for every wrong class, at most 100.

    Args:
        num_targets: int, the number of searches. Defaults to `9`.
        num_steps: int, the number of gradient steps of each search. Defaults to `100`.
        loss: `"dlr"`, for at least 4 classes, or `"margin"`, `z_t - z_y`, for any number of
            classes. Defaults to `"dlr"`.
        eot_samples: int, as in `APGD`. Defaults to `1`.
        shrinking: bool, as in `APGD`. Defaults to `False`.
        ranking: `"logits"` or `"malt"`, the order of the targets. Defaults to `"logits"`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    >>> x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    >>> attack = kr.attacks.TargetedAPGD(num_targets=1, loss="margin")
    >>> print(np.round(attack(lambda x: x @ weights, x, y, kr.Linf(0.1)), 3))
    [[0.4 0.4]]

    References:
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690)
        - [Melamed et al., 2024](https://arxiv.org/abs/2407.02240), for `ranking="malt"`.
    """

    def __init__(
        self,
        *,
        num_targets=9,
        num_steps=100,
        loss="dlr",
        eot_samples=1,
        shrinking=False,
        ranking="logits",
    ):
        check_choice("loss", loss, ("dlr", "margin"))
        check_choice("ranking", ranking, ("logits", "malt"))
        check_counts(num_targets=num_targets)
        super().__init__(
            num_steps=num_steps,
            num_restarts=num_targets,
            loss=loss,
            eot_samples=eot_samples,
            shrinking=shrinking,
        )
        self.num_targets = num_targets
        self.ranking = ranking

    def search(self, problem):
        found = super().search(problem)
        if self.ranking == "logits":
            return found
        return found._replace(
            queries=found.queries + 2 * num_candidates(problem.classifier.num_classes)
        )

    def attack_loss(self, problem):
        clean = ops.stop_gradient(problem.classifier.logits(problem.x, problem.y))
        labels = label_indices(problem.y, clean)
        if self.ranking == "malt":
            targets = nearest_target(problem, clean, labels)
        else:
            targets = ranked_target(clean, labels, problem.restart)

        def towards_target(_, logits):
            if self.loss == "dlr":
                return losses.targeted_dlr(labels, targets, logits)
            return losses.lead_of(targets, labels, logits)

        return make_attack_loss(problem, towards_target, False)

    def _count_queries(self, num_phases):
        # The clean logits, which rank the targets, take one query.
        return 1 + super()._count_queries(num_phases)
