"""The parts of the HTML report on certificates."""

import json

from keras_robust.evaluation.reports import table as text
from keras_robust.evaluation.reports.html.markup import element
from keras_robust.evaluation.reports.html.markup import table

_NOTE = (
    "Examples: the number that it ran on, those that the model classifies correctly and no "
    "certificate before it decided. Proved: no point in the ball is a mistake. Broken: by a "
    "counterexample that the model confirmed. Only the minimum-norm attack runs on proved examples."
)


def make_figures(report):
    """Returns the figures of the headline: name, value and note of each, none without proofs."""
    if report.certified_accuracy is None:
        return []
    open_share = report.robust_accuracy - report.certified_accuracy
    note = f"proved, a lower bound; {text.percent(open_share)} is neither broken nor proved"
    return [("certified accuracy", text.percent(report.certified_accuracy), note)]


def make_section(report):
    """Returns the section with what each certificate proved, or `None` if none ran."""
    if not report.certificates:
        return None
    headings = ["certificate", "examples", "proved", "broken", "seconds"]
    rows = [
        [proof.name, *map(text.amount, (proof.num_examples, proof.num_proved, proof.num_broken))]
        + [f"{proof.seconds:,.1f}"]
        for proof in report.certificates
    ]
    settings = (element("li", f"{p.name} {json.dumps(p.settings)}") for p in report.certificates)
    summary = element("summary", "Arguments of the certificates")
    return element(
        "section",
        element("h2", "Certificates"),
        table(headings, rows, "Examples that each certificate decided, in the order of the runs"),
        element("p", _NOTE, class_="faint"),
        element("details", summary, element("ol", *settings)),
    )
