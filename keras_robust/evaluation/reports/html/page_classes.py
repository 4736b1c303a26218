"""The section of the HTML report on single classes."""

import numpy as np

from keras_robust.evaluation.reports import table as text
from keras_robust.evaluation.reports.figures import to_png
from keras_robust.evaluation.reports.html.markup import Markup
from keras_robust.evaluation.reports.html.markup import element
from keras_robust.evaluation.reports.html.markup import table

_MAX_CELLS = 20  # The largest number of classes for a heat map with numbers.
_MAX_ROWS = 25  # The largest number of classes for a table that is open at first.
_MAX_MISTAKES = 10
_DEPTH = 55  # Opacity of the strongest cell in percent, at which text stays readable.


def make_section(report, names):
    """Returns the section with accuracy and confusion per class, or `None` without them."""
    if report.per_class is None and report.confusion is None:
        return None
    return element(
        "section",
        element("h2", "Classes"),
        element(
            "div",
            None if report.per_class is None else _accuracies(report.per_class, names),
            None if report.confusion is None else _confusion(report.confusion, names),
            class_="classes",
        ),
    )


def _accuracies(rows, names):
    cells = [
        [
            names[row["class"]],
            f"{row['num_examples']:,}",
            text.percent(row["clean_accuracy"]),
            text.percent(row["robust_accuracy"]),
        ]
        for row in rows
    ]
    content = table(["class", "examples", "clean", "robust"], cells, "Accuracy by true class")
    if len(rows) > _MAX_ROWS:
        content = element("details", element("summary", "All classes"), content)
    words = _weakest([row for row in rows if row["num_examples"]], names)
    return element("div", words and element("p", words), content)


def _weakest(rows, names):
    """Returns text on the least robust class, and on whether the attacks are the reason."""
    if not rows:
        return None
    worst = min(rows, key=lambda row: row["robust_accuracy"])
    words = (
        f"The weakest class is {names[worst['class']]}: {text.percent(worst['robust_accuracy'])} "
        f"robust, {text.percent(worst['clean_accuracy'])} clean."
    )
    if worst["clean_accuracy"] >= 0.5:
        return words
    right = round(worst["clean_accuracy"] * worst["num_examples"])
    words += (
        f" The model misclassifies it without any attack: it is right on {right:,} of "
        f"{worst['num_examples']:,} examples."
    )
    hurt = max(rows, key=_loss)
    if not _loss(hurt):
        return words
    return words + (
        f" The attacks hurt {names[hurt['class']]} most: from "
        f"{text.percent(hurt['clean_accuracy'])} to {text.percent(hurt['robust_accuracy'])}."
    )


def _loss(row):
    return row["clean_accuracy"] - row["robust_accuracy"]


def _confusion(confusion, names):
    counts = np.asarray(confusion)
    # A class without examples has a row of zeros.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    draw = _heat_table if len(counts) <= _MAX_CELLS else _heat_image
    return element("div", draw(counts, shares, names), _mistakes(counts, names))


def _heat_table(counts, shares, names):
    rows = []
    for true, row in enumerate(counts):
        cells = (
            _heat_cell(count, shares[true, predicted], true == predicted)
            for predicted, count in enumerate(row)
        )
        rows.append([names[true], *cells])
    caption = "Examples by true class (rows) and class under attack (columns)"
    return element("div", table(["true class", *names], rows, caption), class_="heat")


def _heat_cell(count, share, right):
    colour = "right" if right else "wrong"
    style = f"background: rgb(var(--{colour}) / {_DEPTH * share:.0f}%)" if count else None
    return element("td", count or Markup("&middot;"), style=style)


def _heat_image(counts, shares, names):
    caption = (
        "Share of each true class (rows, from the top) by predicted class under attack (columns): "
        "white is all, black is none."
    )
    alt = f"Confusion matrix of {len(names)} classes"
    style = "width: 100%; image-rendering: pixelated"
    img = element("img", src=to_png(shares), alt=alt, style=style)
    return element("figure", img, element("figcaption", caption))


def _mistakes(counts, names):
    """Returns a table of the most frequent mistakes, or `None` if there are none."""
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_MISTAKES]
    pairs = [divmod(int(place), len(counts)) for place in order]
    rows = [[f"{names[a]} as {names[b]}", wrong[a, b]] for a, b in pairs if wrong[a, b]]
    if not rows:
        return None
    content = table(["true class as class under attack", "examples"], rows)
    return element("details", element("summary", "The most frequent mistakes"), content)
