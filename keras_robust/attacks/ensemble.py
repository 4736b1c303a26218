"""Ensembles: several attacks run in turn, and the model judges the points that they return."""

import dataclasses

import numpy as np

from keras_robust import models
from keras_robust.attacks.dataset_attack import DatasetAttack
from keras_robust.attacks.progress import headline


@dataclasses.dataclass(frozen=True)
class PlannedAttack:
    """One attack of an ensemble.

    Args:
        attack: an `Attack`.
        suite: str, the suite that the attack is a member of, or `None`. A member runs only on the
            examples that are still robust; other attacks run on all correctly classified examples.
            Neither runs on examples that a certificate proves robust.
        is_unbounded: bool, whether it is a minimum-norm attack, which runs without a radius. A
            proof says nothing about mistakes outside of the ball, so it runs on proved examples.
    """

    attack: object
    suite: str | None = None
    is_unbounded: bool = False


class Ensemble:
    """Runs planned attacks in order, and keeps the worst case over all of them.

    Args:
        model: a model or a callable that returns logits.
        worst: a `WorstCase`, which every attack updates.
        threat_model: a `ThreatModel`.
        rows: int array, the examples to attack. Defaults to `None`, all examples.
        batch_size: int.
        seed: int. Every attack gets a seed of its own, derived from this one, so that no two
            attacks share their random starts.
    """

    def __init__(self, model, worst, threat_model, *, rows=None, batch_size, seed):
        self.model, self.worst, self.threat_model = model, worst, threat_model
        self.eligible = np.ones(len(worst.y), "bool")
        if rows is not None:
            self.eligible = np.isin(np.arange(len(worst.y)), rows)
        self.batch_size, self.seed = batch_size, seed

    def runs(self, plan, first=0, num_before=0):
        """Yields a `MemberRun` for every attack of a plan; judge it before the next one.

        Args:
            plan: list of `PlannedAttack`.
            first: int, the number of attacks that are done already. Defaults to `0`.
            num_before: int, how many certificates are counted before the attacks. Defaults to `0`.
        """
        for index in range(first, len(plan)):
            place = num_before + index + 1, num_before + len(plan)
            yield MemberRun(self, plan[index], index, place)


class MemberRun:
    """One attack of an ensemble on the examples that it is planned for.

    Attributes: `planned`, the `PlannedAttack`; `num_open`, int, the number of examples that were
    open to it, before other attacks broke some; `rows`, int array, the examples that it attacks;
    `dataset_attack`, the `DatasetAttack` on them, or `None` if there are none.
    """

    def __init__(self, ensemble, planned, index, place):
        worst, threat_model = ensemble.worst, ensemble.threat_model
        if planned.is_unbounded:
            threat_model = threat_model.with_epsilon(np.inf)
        self.planned = planned
        is_open = worst.correct & ensemble.eligible
        if not planned.is_unbounded:
            is_open &= ~worst.proved
        self.num_open = int(is_open.sum())
        self.rows = np.flatnonzero(is_open & worst.robust if planned.suite else is_open)
        self.dataset_attack = None
        self._ensemble, self._place = ensemble, place
        if len(self.rows):
            self.dataset_attack = DatasetAttack(
                planned.attack,
                ensemble.model,
                worst.x,
                worst.y,
                threat_model,
                rows=self.rows,
                batch_size=ensemble.batch_size,
                # The remainder fits into the 32 bits of a seed.
                seed=(ensemble.seed + 104729 * index) % 2**31,
            )
            if worst.numbers is not None:
                self.dataset_attack.become_part(worst.numbers, ensemble.batch_size)

    def batches(self, verbose):
        """Runs the attack, and yields after every batch, with a progress bar if `verbose`."""
        planned, worst = self.planned, self._ensemble.worst
        if verbose:
            about = planned.attack, worst.x, len(self.rows)
            print(headline(self._place, *about, any_radius=planned.is_unbounded))  # noqa: T201
        if self.dataset_attack is None:
            return
        others = self._ensemble.eligible.copy()
        others[self.rows] = False
        num_robust = int(worst.robust[others].sum())
        yield from self.dataset_attack.with_progress(verbose, int(others.sum()), num_robust)

    def judge(self):
        """Updates the worst case with the points of the attack, after its last batch.

        Returns:
            The `AttackResult` for `rows`; and two bool arrays, which of these examples are broken,
            and which points are feasible. Both are computed anew, whatever the attack reports.
        """
        ensemble, found = self._ensemble, self.dataset_attack.found()
        points = found.x_adv
        # As in the attack, full batches give a point the same bits in any part of the data.
        if ensemble.worst.numbers is not None:
            points = models.take(points, models.filled_rows(len(self.rows), ensemble.batch_size))
        logits = models.predict_logits(ensemble.model, points, ensemble.batch_size)
        logits = logits[: len(self.rows)]
        radius = ensemble.threat_model.epsilon_for_rows(self.rows, ensemble.worst.x)
        threat_model = ensemble.threat_model.with_epsilon(radius)
        broken, feasible = ensemble.worst.update(self.rows, found.x_adv, logits, threat_model)
        return found, broken, feasible
