"""Tables of reports for a terminal."""

from rich.table import Table
from rich.text import Text

from keras_robust.evaluation.checks.check import summarise_verdicts
from keras_robust.evaluation.reports.characters import one_line
from keras_robust.evaluation.reports.threat_text import describe_threat


def compare(reports):
    """Returns a `rich.table.Table` that shows reports on the same examples side by side.

    Args:
        reports: dict from column heading to `RobustnessReport`. All of them must have the same
            threat model, attacks and number of examples.
    """
    notes = [
        f"{heading}: {warning}" for heading, r in reports.items() for warning in report_warnings(r)
    ]
    table = _table(next(iter(reports.values())), notes)
    # rich would read square brackets in a plain string as its own markup, but not in a `Text`.
    for heading in reports:
        table.add_column(Text(one_line(heading)), justify="right")
    table.add_row("clean", *(percent(report.clean_accuracy) for report in reports.values()))
    # Reports with different numbers of attacks fail here.
    for row in zip(*(report.attacks for report in reports.values()), strict=True):
        table.add_row(Text(one_line(row[0].label)), *map(share_left, row))
    _add_results(table, list(reports.values()))
    return table


def summarise(report):
    """Returns a `rich.table.Table` of one report, with the cost of each attack."""
    table = _table(report, [f"- {warning}" for warning in report_warnings(report)])
    for heading in ("accuracy", "examples", "model calls", "seconds"):
        table.add_column(heading, justify="right")
    table.add_row("clean", percent(report.clean_accuracy), amount(report.num_examples))
    for proof in report.certificates:
        amounts = amount(proof.num_examples), amount(None), amount(proof.seconds)
        proved = share_proved(proof, report.num_examples)
        table.add_row(Text(one_line(proof.name)), proved, *amounts)
    for attack in report.attacks:
        amounts = map(amount, (attack.num_attacked, attack.queries, attack.seconds))
        table.add_row(Text(one_line(attack.label)), share_left(attack), *amounts)
    _add_results(table, [report], "", amount(report.queries), amount(report.seconds))
    return table


def report_warnings(report):
    """Returns the reasons to doubt the numbers: the warnings and the failed checks."""
    failed = [f"Check {check}" for check in report.checks if check.verdict == "failed"]
    return [*report.warnings, *failed]


def percent(share):
    """Returns text such as `45.6%`, or a dash for `None`."""
    return "-" if share is None else f"{share:.1%}"


def interval(report):
    """Returns the confidence interval as text."""
    return " - ".join(map(percent, report.confidence))


def share_left(attack):
    """Returns the accuracy under one attack as text, or that under all attacks so far."""
    if attack.accuracy is None:
        return f"{percent(attack.accuracy_so_far)} so far"
    return percent(attack.accuracy)


def share_proved(proof, num_examples):
    """Returns the share that a certificate proved as text, or a dash if no example was left."""
    return f"{percent(proof.num_proved / num_examples)} proved" if proof.num_examples else "-"


def amount(number):
    """Returns a count or a number of seconds as text, or a dash for `None`."""
    if number is None:
        return "-"
    return f"{number:,.1f}" if isinstance(number, float) else f"{number:,}"


def _table(report, notes):
    parts = [describe_threat(report.threat_model, report.inputs), f"{report.num_examples} examples"]
    if report.shard is not None:
        parts[-1] += f", shard {report.shard.index}/{report.shard.count}"
    title = ", ".join([*parts, report.suite] if report.suite else parts)
    caption = Text("\n".join(map(one_line, notes))) if notes else None
    table = Table(title=Text(one_line(title)), caption=caption, caption_justify="left")
    table.add_column("")
    return table


def _add_results(table, reports, *totals):
    table.add_section()
    robust = (percent(report.robust_accuracy) for report in reports)
    table.add_row("robust (worst case)", *robust, *totals)
    certified = [report.certified_accuracy for report in reports]
    if any(share is not None for share in certified):
        table.add_row("certified (lower bound)", *map(percent, certified))
    table.add_row("95% interval", *map(interval, reports))
    rows = {
        "median distance": [_number(report.median_distance) for report in reports],
        "attack quality checks": [summarise_verdicts(report.checks) for report in reports],
    }
    for name, cells in rows.items():
        if any(cells):
            table.add_row(name, *cells)


def _number(value):
    return "" if value is None else f"{value:.4g}"
