"""The certificates and attacks of an evaluation, with reports and checkpoints."""

import contextvars
import dataclasses
import time

from keras_robust.attacks.ensemble import Ensemble
from keras_robust.attacks.progress import headline
from keras_robust.evaluation.certificates import prove
from keras_robust.evaluation.reports.attack_report import AttackReport
from keras_robust.evaluation.reports.attack_report import outside_warnings
from keras_robust.evaluation.reports.proof_report import ProofReport

# The errors that Python raises if a saved state lacks a value, or a value has the wrong type.
_MISSING = (AttributeError, KeyError, TypeError, ValueError)


# A function that hears after every batch which share of the attacks is done, or `None`.
LISTENER = contextvars.ContextVar("listener", default=None)


class AttackRunner:
    """Runs certificates, then an ensemble of attacks, saves the state, and collects reports.

    Args:
        model: a model or a callable, as in `evaluate`.
        worst: a `WorstCase`, which every attack updates.
        threat_model: a `ThreatModel`.
        batch_size: int.
        seed: int.

    Attributes: `proofs`, a `ProofReport` for each finished certificate; `reports`, an
    `AttackReport` for each finished attack.
    """

    def __init__(self, model, worst, threat_model, *, batch_size, seed):
        self.worst, self.proofs, self.reports = worst, [], []
        self._ensemble = Ensemble(model, worst, threat_model, batch_size=batch_size, seed=seed)

    def run(self, plan, checkpoint, verbose, certificates=()):
        """Runs all certificates and attacks, and resumes from the checkpoint if it has a state."""
        run_state, seconds = self._resume(checkpoint, len(plan), len(certificates))
        num_proofs = len(certificates)
        self._prove(certificates, checkpoint, verbose, num_proofs + len(plan))
        # Count the seconds before an interruption as well.
        start = time.perf_counter() - seconds
        for member in self._ensemble.runs(plan, len(self.reports), num_proofs):
            if member.dataset_attack is not None and run_state is not None:
                self._restore(member.dataset_attack, run_state, checkpoint)
            for done in _shares(member, verbose):
                if LISTENER.get() is not None:
                    LISTENER.get()((len(self.reports) + done) / len(plan))
                if checkpoint.is_due:
                    self._save(
                        checkpoint, member.dataset_attack.state(), time.perf_counter() - start
                    )
            self._record(member, start)
            # An attack that has finished never runs again, even if the next one is killed at once.
            self._save(checkpoint, None, 0.0)
            run_state, start = None, time.perf_counter()

    def _prove(self, certificates, checkpoint, verbose, num_parts):
        """Runs the certificates that have not run yet, each on what the others left undecided."""
        ensemble = self._ensemble
        arguments = {"batch_size": ensemble.batch_size, "seed": ensemble.seed, "verbose": verbose}
        for planned in certificates[len(self.proofs) :]:
            if verbose:
                num_open = int((self.worst.robust & ~self.worst.proved).sum())
                place = len(self.proofs) + 1, num_parts
                print(headline(place, planned.certificate, self.worst.x, num_open))  # noqa: T201
            proof = prove(planned, ensemble.model, self.worst, ensemble.threat_model, **arguments)
            self.proofs.append(proof)
            self._save(checkpoint, None, 0.0)

    def _record(self, member, start):
        """Updates the worst case with the result of an attack, and adds its report."""
        worst, rows, planned = self.worst, member.rows, member.planned
        robust = worst.correct.copy()
        zero_gradient, queries, num_outside = 0.0, 0, 0
        if member.dataset_attack is not None:
            found, broken, feasible = member.judge()
            robust[rows[broken]] = False
            zero_gradient = float(found.zero_gradient.sum() / worst.correct.sum())
            queries = int(found.queries.sum())
            num_outside = 0 if planned.is_unbounded else int((~feasible).sum())
        # An attack that skipped examples which were broken before has no accuracy of its own. It
        # needs not see those that are proved, because no attack breaks them.
        saw_all = len(rows) == member.num_open
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
                num_outside=num_outside,
            )
        )

    @property
    def warnings(self):
        """The list of str, the attacks that left the threat model."""
        return outside_warnings(self.reports)

    def _save(self, checkpoint, run_state, seconds):
        if checkpoint.path is None:
            return
        arrays = {f"worst_{name}": array for name, array in self.worst.state().items()}
        for name, array in (run_state or {}).items():
            arrays[f"run_{name}"] = array
        for index, report in enumerate(self.reports):
            arrays[f"robust_{index}"] = report.robust
        reports = [
            {**report.to_dict(), "num_outside": report.num_outside} for report in self.reports
        ]
        proofs = [dataclasses.asdict(proof) for proof in self.proofs]
        state = {"proofs": proofs, "reports": reports}
        state["seconds"] = seconds
        checkpoint.save(state, arrays)

    def _resume(self, checkpoint, num_attacks, num_certificates):
        """Returns the state of the interrupted attack, or `None`, and the seconds it ran."""
        saved = checkpoint.load()
        if saved is None:
            return None, 0.0
        state, arrays = saved
        try:
            seconds = state["seconds"]
            reports = [
                AttackReport(**report, robust=arrays[f"robust_{index}"])
                for index, report in enumerate(state["reports"])
            ]
            proofs = [ProofReport(**proof) for proof in state["proofs"]]
            if len(reports) > num_attacks or len(proofs) > num_certificates:
                raise ValueError(
                    f"Expected at most {num_attacks} attacks and {num_certificates} certificates. "
                    f"Received: {len(reports)} and {len(proofs)}"
                )
            self.worst.restore(_with_prefix("worst_", arrays))
        except _MISSING as error:
            raise checkpoint.refusal(error) from error
        self.reports, self.proofs = reports, proofs
        return _with_prefix("run_", arrays) or None, float(seconds)

    def _restore(self, run, run_state, checkpoint):
        try:
            run.restore(run_state)
        except _MISSING as error:
            raise checkpoint.refusal(error) from error


def _shares(member, verbose):
    """Runs an attack, and yields after every batch an estimate of the share that is done."""
    # Later restarts visit fewer examples, so that the share may jump at the end.
    total, done = member.planned.attack.num_restarts * len(member.rows), 0
    for count in member.batches(verbose):
        done += count
        yield done / total


def _with_prefix(prefix, arrays):
    """Returns the arrays whose names have a prefix, which is removed from the names."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
