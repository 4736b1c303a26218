"""The HTML report: one page with numbers, warnings and figures."""

import numpy as np

from keras_robust.evaluation.checks.check import count_verdicts
from keras_robust.evaluation.checks.check import summarise_verdicts
from keras_robust.evaluation.reports import table as text
from keras_robust.evaluation.reports.charts import draw_curve
from keras_robust.evaluation.reports.charts import draw_distances
from keras_robust.evaluation.reports.example_plot import choose_examples
from keras_robust.evaluation.reports.example_plot import has_images
from keras_robust.evaluation.reports.example_plot import name_classes
from keras_robust.evaluation.reports.figures import to_png
from keras_robust.evaluation.reports.html import page_certificates
from keras_robust.evaluation.reports.html import page_classes
from keras_robust.evaluation.reports.html import page_settings
from keras_robust.evaluation.reports.html.markup import Markup
from keras_robust.evaluation.reports.html.markup import as_text
from keras_robust.evaluation.reports.html.markup import element
from keras_robust.evaluation.reports.html.markup import table
from keras_robust.evaluation.reports.html.page_style import STYLE
from keras_robust.evaluation.reports.threat_text import describe_threat

# Names in a report may contain HTML, so the page forbids scripts and requests.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def make_page(report, class_names=None, num_examples=5):
    """Returns the HTML of a `RobustnessReport`; see its `save_html`."""
    names = name_classes(report, class_names)
    named = [describe_threat(report.threat_model, report.inputs)]
    named += [report.suite] * bool(report.suite)
    title = f"Robustness report: {', '.join(named)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        # Browsers do not decode escapes in a style sheet, and this one is a constant.
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element("header", element("h1", title), _headline(report)),
        element(
            "main",
            _warnings(report),
            page_certificates.make_section(report),
            _attacks(report),
            _checks(report),
            _distances(report),
            # The table has a heading for the classes, so their numbers need no prefix.
            page_classes.make_section(report, name_classes(report, class_names, prefix="")),
            _examples(report, num_examples, names),
            page_settings.make_section(report),
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}"


def _headline(report):
    figures = [
        (
            "robust accuracy, worst case",
            text.percent(report.robust_accuracy),
            f"95% interval {text.interval(report)}, {_num_examples(report)}",
        ),
        *page_certificates.make_figures(report),
        ("clean accuracy", text.percent(report.clean_accuracy), "without an attack"),
        ("attack quality checks", *_judge(report)),
    ]
    boxes = (
        element("div", element("dt", name), element("dd", element("strong", value), note))
        for name, value, note in figures
    )
    return element("dl", *boxes, class_="figures")


def _num_examples(report):
    """Returns how many examples the report is about, and of which shard."""
    count, shard = f"{report.num_examples:,} examples", report.shard
    return count if shard is None else f"{count}, shard {shard.shard} of {shard.num_examples:,}"


def _judge(report):
    """Returns a summary of the checks and a sentence on what it means."""
    if not report.checks:
        return "none", "no check of whether the attacks worked on this model"
    summary, counts = summarise_verdicts(report.checks), count_verdicts(report.checks)
    if any(check.verdict == "failed" for check in report.checks):
        return summary, f"{counts}: robust accuracy may be lower"
    return summary, f"no verdict on the model ({counts})"


def _warnings(report):
    report_warnings = text.report_warnings(report)
    if not report_warnings:
        return None
    return element(
        "section",
        element("h2", "Reasons to doubt these numbers"),
        element("ul", *(element("li", warning) for warning in report_warnings)),
        class_="warnings",
    )


def _attacks(report):
    rows = [
        [
            attack.label,
            text.percent(attack.accuracy),
            text.percent(attack.accuracy_so_far),
            text.amount(attack.num_attacked),
            text.amount(attack.queries),
            text.percent(attack.zero_gradient),
            f"{attack.seconds:,.1f}",
        ]
        for attack in report.attacks
    ]
    counts = ["examples", "model calls", "zero gradient", "seconds"]
    headings = ["attack", "accuracy", "so far", *counts]
    return element(
        "section",
        element("h2", "Attacks"),
        table(headings, rows, "Accuracy under each attack, in the order in which they ran"),
        element(
            "p",
            "So far: accuracy under this attack and all before it; an attack that ran only on the "
            "examples that were still robust has no other accuracy. Examples: the number that it "
            "ran on. Model calls: forward passes, summed over the examples; a gradient counts as "
            "one more. Zero gradient: the share of examples on which all gradients were zero.",
            class_="faint",
        ),
    )


def _checks(report):
    if not report.checks:
        return None
    rows = [
        [
            element("th", check.name, _advice(check), scope="row"),
            element("td", check.verdict, class_=f"text {check.verdict}"),
            "-" if check.value is None else f"{check.value:.4g}",
            "-" if check.threshold is None else f"{check.threshold:.4g}",
        ]
        for check in report.checks
    ]
    headings = ["check", as_text("verdict"), "value", "threshold"]
    caption = "Whether the attacks worked on this model, not how good the model is"
    return element(
        "section", element("h2", "Attack quality checks"), table(headings, rows, caption)
    )


def _advice(check):
    return element("div", check.advice, class_="faint") if check.advice else None


def _distances(report):
    epsilon = report.threat_model["epsilon"]
    # A radius per feature has no single position on the axis.
    marks = None if isinstance(epsilon, list) else epsilon, report.median_distance
    figures = []
    if report.curve is not None:
        caption = (
            f"Robust accuracy against the radius, by the distances that {report.curve['attack']} "
            "found: the share of examples with none within the radius."
        )
        figures.append(_figure(draw_curve(report.curve, *marks), caption))
    found = np.asarray([] if report.distances is None else report.distances)
    if ((found > 0.0) & np.isfinite(found)).any():
        caption = (
            "Smallest perturbation found for each example. Not shown: mistakes on clean examples "
            f"({(found == 0).sum()}) and examples without any found ({np.isinf(found).sum()})."
        )
        figures.append(_figure(draw_distances(found, *marks), caption))
    if not figures:
        return None
    note = None
    if report.distances is None:
        note = _note("A report read from a file does not contain the distances of single examples.")
    return element(
        "section",
        element("h2", "Distance to the nearest mistake"),
        element("p", f"Median over all examples: {_median(report)}."),
        element("div", *figures, class_="two"),
        note,
    )


def _median(report):
    if report.median_distance is not None:
        return f"{report.median_distance:.4g}"
    return "none, because at least half of them have no adversarial example"


def _figure(picture, caption):
    return element("figure", picture, element("figcaption", caption))


def _note(words):
    return element("p", words, class_="faint")


def _examples(report, num_examples, names):
    heading = element("h2", "Adversarial examples")
    if report.x is None:
        note = "A report read from a file does not contain the inputs, so there are no pictures."
        return element("section", heading, _note(note))
    if not has_images(report):
        return None
    rows = [
        [
            example.true,
            _image_figure(example.clean, "clean", example.before),
            _image_figure(example.perturbation, "perturbation", f"at most {example.largest:.3g}"),
            _image_figure(example.adversarial, "adversarial", example.after),
        ]
        for example in choose_examples(report, num_examples, names)
    ]
    caption = (
        "Predicted class and its probability, with the most confident new mistakes first. The "
        "perturbation is scaled to its largest value; gray means no change"
    )
    headings = ["true class", *map(as_text, ("clean", "perturbation", "adversarial"))]
    content = table(headings, rows, caption)
    return element("section", heading, content, class_="examples")


def _image_figure(image, kind, caption):
    img = element("img", src=to_png(image), alt=f"{kind} image, {caption}")
    return element("td", img, caption)
