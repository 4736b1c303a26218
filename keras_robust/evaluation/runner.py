"""The runner of the attacks of an evaluation."""

import time

import numpy as np

from keras_robust import models
from keras_robust.attacks.auto_attack import member_seed
from keras_robust.attacks.dataset_attack import DatasetAttack
from keras_robust.evaluation.reports.attack_report import AttackReport

# The errors that Python raises if a saved state lacks a value, or a value has the wrong type.
_MISSING = (AttributeError, KeyError, TypeError, ValueError)


class AttackRunner:
    """Runs attacks on a model, and collects their reports.

    Args:
        model: a model or a callable, as in `evaluate`.
        worst: a `WorstCase`, which every attack updates.
        threat_model: a `ThreatModel`.
        batch_size: int.
        seed: int.

    Attributes: `reports`, an `AttackReport` for each finished attack; `warnings`, a list of str.
    """

    def __init__(self, model, worst, threat_model, *, batch_size, seed):
        self.model, self.worst, self.threat_model = model, worst, threat_model
        self.batch_size, self.seed = batch_size, seed
        self.reports, self.warnings = [], []

    def run(self, plan, checkpoint, verbose):
        """Runs all planned attacks, and resumes from the checkpoint if it has a state."""
        run_state, seconds = self._resume(checkpoint, len(plan))
        for index in range(len(self.reports), len(plan)):
            # Count the seconds before an interruption as well.
            planned, start = plan[index], time.perf_counter() - seconds
            rows = np.flatnonzero(self.worst.robust if planned.suite else self.worst.correct)
            found = None
            if len(rows):
                if verbose:
                    print(f"{planned.attack}")  # noqa: T201
                run = self._start(planned, rows, index)
                if run_state is not None:
                    self._restore(run, run_state, checkpoint)
                for _ in run.with_progress(verbose, *self._others(rows)):
                    if checkpoint.is_due:
                        self._save(checkpoint, run.state(), time.perf_counter() - start)
                found = run.found()
            self._record(planned, rows, found, start)
            # An attack that has finished never runs again, even if the next one is killed at once.
            self._save(checkpoint, None, 0.0)
            run_state, seconds = None, 0.0

    def _start(self, planned, rows, index):
        ball = self.threat_model.with_epsilon(np.inf) if planned.is_unbounded else self.threat_model
        arguments = {"batch_size": self.batch_size, "seed": member_seed(self.seed, index)}
        worst = self.worst
        return DatasetAttack(
            planned.attack, self.model, worst.x, worst.y, ball, rows=rows, **arguments
        )

    def _others(self, rows):
        """Returns the number of the other examples, and how many of them are robust."""
        others = np.ones(len(self.worst.y), "bool")
        others[rows] = False
        return int(others.sum()), int(self.worst.robust[others].sum())

    def _record(self, planned, rows, found, start):
        """Updates the worst case with the result of an attack, and adds its report."""
        worst = self.worst
        broken = np.zeros(len(rows), "bool")
        zero_gradient, queries = 0.0, 0
        label = AttackReport.of(planned.attack).label
        if found is not None:
            # Judge the points by the model, not by what the attack reports.
            logits = models.predict_logits(self.model, found.x_adv, self.batch_size)
            radius = self.threat_model.epsilon_for_rows(rows, worst.x)
            ball = self.threat_model.with_epsilon(radius)
            broken, feasible = worst.update(rows, found.x_adv, logits, ball)
            zero_gradient = float(found.zero_gradient.sum() / worst.correct.sum())
            queries = int(found.queries.sum())
            if not feasible.all() and not planned.is_unbounded:
                self.warnings.append(
                    f"{label} left the threat model on {(~feasible).sum()} examples, which are "
                    "counted as not broken."
                )
        robust = worst.correct.copy()
        robust[rows[broken]] = False
        # An attack that skipped examples which were broken before has no accuracy of its own.
        saw_all = len(rows) == worst.correct.sum()
        self.reports.append(
            AttackReport.of(
                planned.attack,
                is_unbounded=planned.is_unbounded,
                accuracy=float(robust.mean()) if saw_all else None,
                accuracy_so_far=float(worst.robust.mean()),
                zero_gradient=zero_gradient,
                seconds=time.perf_counter() - start,
                num_attacked=len(rows),
                queries=queries,
                robust=robust if saw_all else worst.robust.copy(),
            )
        )

    def _save(self, checkpoint, run_state, seconds):
        if checkpoint.path is None:
            return
        arrays = {f"worst_{name}": array for name, array in self.worst.state().items()}
        for name, array in (run_state or {}).items():
            arrays[f"run_{name}"] = array
        for index, report in enumerate(self.reports):
            arrays[f"robust_{index}"] = report.robust
        reports = [report.to_dict() for report in self.reports]
        state = {"reports": reports, "warnings": self.warnings, "seconds": seconds}
        checkpoint.save(state, arrays)

    def _resume(self, checkpoint, num_attacks):
        """Returns the state of the interrupted attack, or `None`, and the seconds it ran."""
        saved = checkpoint.load()
        if saved is None:
            return None, 0.0
        state, arrays = saved
        try:
            warnings, seconds = [str(warning) for warning in state["warnings"]], state["seconds"]
            reports = [
                AttackReport(**report, robust=arrays[f"robust_{index}"])
                for index, report in enumerate(state["reports"])
            ]
            if len(reports) > num_attacks:
                raise ValueError(
                    f"Expected at most {num_attacks} attacks. Received: {len(reports)}"
                )
            self.worst.restore(_with_prefix("worst_", arrays))
        except _MISSING as error:
            raise checkpoint.refusal(error) from error
        self.warnings, self.reports = warnings, reports
        return _with_prefix("run_", arrays) or None, float(seconds)

    def _restore(self, run, run_state, checkpoint):
        try:
            run.restore(run_state)
        except _MISSING as error:
            raise checkpoint.refusal(error) from error


def _with_prefix(prefix, arrays):
    """Returns the arrays whose names have a prefix, which is removed from the names."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
