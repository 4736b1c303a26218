"""The report of a whole evaluation from those of its shards."""

import dataclasses
import types

import keras
import numpy as np

from keras_robust.attacks.ensemble import PlannedAttack
from keras_robust.evaluation.checks.cheap_checks import check_sizes
from keras_robust.evaluation.checks.cheap_checks import outcome_checks
from keras_robust.evaluation.reports.attack_report import outside_warnings
from keras_robust.evaluation.row_results import RowResults
from keras_robust.evaluation.summary import summarize_rows
from keras_robust.threat_models.units import Size

# The first checks of a report, which every shard does on all examples.
_INPUT_CHECKS = 3
_ARRAYS = ("x", "y", "x_adv", "logits", "adv_logits", "distances", "robust", "proved")


def merged_fields(reports):
    """Returns the fields of the merged report; see `RobustnessReport.merge`."""
    reports = _in_order(reports)
    first, record = reports[0], reports[0].shard
    rows = _join([report.shard.results() for report in reports])
    attacks = [_merge_attack(reports, place) for place in range(len(first.attacks))]
    proofs = [_merge_proof(group) for group in _groups(reports, "certificates")]
    plan = [
        PlannedAttack(types.SimpleNamespace(uses_gradients=bool(uses)), None, report.is_unbounded)
        for uses, report in zip(record.uses_gradients, attacks, strict=True)
    ]
    # The warnings that are about the examples of one shard alone come last.
    own = sum(count > 0 for count in record.num_outside)
    common = first.warnings[: len(first.warnings) - own]
    sizes = [Size(*size) for size in record.sizes]
    names = ("threat_model", "seed", "versions", "suite", "batch_size")
    epsilon = first.threat_model["epsilon"]
    return {
        **{name: getattr(first, name) for name in names},
        **summarize_rows(rows, first.num_classes, epsilon, attacks, proofs),
        "warnings": [*common, *outside_warnings(attacks)],
        "checks": [
            *map(_worst_check, list(_groups(reports, "checks"))[:_INPUT_CHECKS]),
            check_sizes(sizes, rows.distances),
            *outcome_checks(rows, plan, attacks),
        ],
        "seconds": sum(report.seconds for report in reports),
        "inputs": _merge_inputs([report.inputs for report in reports]),
        **_merge_arrays(reports),
    }


def _in_order(reports):
    """Returns the reports by their numbers, or raises ValueError unless they are one evaluation."""
    reports = list(reports)
    whole = sum(report.shard is None for report in reports)
    if whole or not reports:
        raise ValueError(
            'Expected reports of shards, from evaluate(..., shard="0/2") and so on. '
            f"Received: {len(reports)} reports, of which {whole} are not of a shard"
        )
    # The order in which jobs end must not change a bit of the sums.
    reports = sorted(reports, key=lambda report: report.shard.shard)
    first = reports[0].shard
    for report in reports:
        _check_same(report.shard, first)
    _check_complete([report.shard.index for report in reports], first.count)
    return reports


def _check_complete(found, count):
    """Raises ValueError unless each of `count` numbers is found once."""
    missing = [f"{index}/{count}" for index in range(count) if index not in found]
    twice = [f"{index}/{count}" for index in sorted(set(found)) if found.count(index) > 1]
    if missing or twice:
        raise ValueError(
            f"Expected each of {count} shards once. Received: {len(found)} reports; missing: "
            f"{', '.join(missing) or 'none'}; more than once: {', '.join(twice) or 'none'}"
        )


def _check_same(record, first):
    """Raises ValueError unless two records are of shards of the same evaluation."""
    names = sorted({*record.evaluation, *first.evaluation})
    differing = [
        name for name in names if record.evaluation.get(name) != first.evaluation.get(name)
    ]
    for name in ("count", "num_examples", "uses_gradients", "sizes"):
        if getattr(record, name) != getattr(first, name):
            differing.append({"count": "number of shards"}.get(name, name))
    # A forged file may lack what the digests promise.
    if (record.rows["distances"] is None) != (first.rows["distances"] is None):
        differing.append("distances")
    if differing:
        raise ValueError(
            "Expected shards of one evaluation, of the same model, data and settings. Received: "
            f"shard {record.shard}, which differs from shard {first.shard} in: "
            f"{', '.join(differing)}"
        )


def _groups(reports, name):
    """Returns what the reports have in a list, one tuple for each place in it."""
    return zip(*(getattr(report, name) for report in reports), strict=True)


def _join(parts):
    """Returns the `RowResults` of all examples in order."""
    order = np.argsort(np.concatenate([part.numbers for part in parts]))
    fields = zip(*(part[:-1] for part in parts), strict=True)
    return RowResults(
        *(None if field[0] is None else np.concatenate(field)[order] for field in fields)
    )


def _merge_attack(reports, place):
    """Returns the `AttackReport` of all examples, from shares that are counts over their number."""
    found = [report.attacks[place] for report in reports]
    sizes = [report.num_examples for report in reports]
    num_correct = [int(report.shard.results().correct.sum()) for report in reports]
    return dataclasses.replace(
        found[0],
        accuracy=_mean([report.accuracy for report in found], sizes),
        accuracy_so_far=_mean([report.accuracy_so_far for report in found], sizes),
        zero_gradient=_mean([report.zero_gradient for report in found], num_correct),
        robust=_merge_array(reports, [report.robust for report in found]),
        num_outside=sum(report.shard.num_outside[place] for report in reports),
        **_sums(found, ("seconds", "num_attacked", "queries")),
    )


def _mean(shares, sizes):
    """Returns the share over all examples of shares that are counts over sizes.

    `None` if one of them is: of an attack that left out examples of one shard nothing is known.
    """
    # Counts are exact; a weighted mean of shares would round otherwise than one machine.
    if None in shares:
        return None
    count = sum(round(share * size) for share, size in zip(shares, sizes, strict=True))
    return count / sum(sizes) if sum(sizes) else 0.0


def _merge_proof(group):
    """Returns the `ProofReport` of all examples."""
    names = ("num_examples", "num_proved", "num_broken", "seconds")
    return dataclasses.replace(group[0], **_sums(group, names))


def _sums(reports, names):
    return {name: sum(getattr(report, name) for report in reports) for name in names}


def _worst_check(group):
    """Returns the check with the largest value; only those of a random model differ."""
    return max(group, key=lambda check: (check.verdict == "failed", check.value or 0.0))


def _merge_inputs(parts):
    if parts[0] is None:
        return None
    low, high = min(part["low"] for part in parts), max(part["high"] for part in parts)
    return {**parts[0], "low": low, "high": high}


def _merge_arrays(reports):
    """Returns the arrays of the reports, joined if all of them have one."""
    return {
        name: _merge_array(reports, [getattr(report, name) for report in reports])
        for name in _ARRAYS
    }


def _merge_array(reports, parts):
    """Returns an array or a structure of arrays of all examples in order, or `None`."""
    if any(part is None for part in parts):
        return None
    # Shards are strided, so that their rows alternate in the whole data.
    numbers = [report.shard.shard.rows(report.shard.num_examples) for report in reports]
    order = np.argsort(np.concatenate(numbers))
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves)[order], *parts)
