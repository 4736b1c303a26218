"""The section of the HTML report on the settings of the evaluation."""

import json

from keras_robust.evaluation.reports import table as text
from keras_robust.evaluation.reports.html.markup import element


def make_section(report):
    """Returns the section with the arguments, the cost and the versions of an evaluation."""
    values = {
        "threat model": f"{report.threat_model['class_name']}, "
        + json.dumps(report.threat_model["config"]),
        "suite": report.suite or "a custom list",
        "inputs": _inputs(report.inputs),
        "examples, classes": f"{report.num_examples:,}, {report.num_classes:,}",
        "batch size": text.amount(report.batch_size),
        "seed": report.seed,
        "model calls": text.amount(report.queries),
        "wall time": f"{report.seconds:,.1f} seconds",
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
    }
    parts = (
        element(name, value)
        for pair in values.items()
        for name, value in zip(("dt", "dd"), pair, strict=True)
    )
    attacks = (element("li", f"{a.name} {json.dumps(a.settings)}") for a in report.attacks)
    return element(
        "section",
        element("h2", "Settings"),
        element("dl", *parts, class_="settings"),
        element("details", element("summary", "Arguments of the attacks"), element("ol", *attacks)),
    )


def _inputs(inputs):
    if inputs is None:
        return "several, or not recorded"
    return f"{inputs['num_features']:,} features from {inputs['low']:g} to {inputs['high']:g}"
