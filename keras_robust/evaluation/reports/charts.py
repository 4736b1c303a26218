"""The charts of the HTML report, each from numbers to an `<svg>` element."""

import numpy as np

from keras_robust.evaluation.reports.figures import ACCENT
from keras_robust.evaluation.reports.figures import INK
from keras_robust.evaluation.reports.figures import WARNING
from keras_robust.evaluation.reports.figures import make_figure
from keras_robust.evaluation.reports.figures import to_svg

_SIZE = (5.0, 3.2)  # Inches; the page scales it, so that this sets the size of the text.
_BINS = 30


def draw_curve(curve, epsilon=None, median=None):
    """Draws robust accuracy against the radius.

    Args:
        curve: dict with `"epsilons"` and `"robust_accuracy"`, as from `robustness_curve`.
        epsilon: number, the radius of the threat model, marked; or `None`.
        median: number, the median distance, marked; or `None`.
    """
    figure, axes = _axes("radius epsilon", "robust accuracy")
    radii = np.asarray(curve["epsilons"])
    shares = 100.0 * np.asarray(curve["robust_accuracy"])
    # Goes on flat to the right: the last step may be at the edge.
    end = max([radii[-1], *(value for value in (epsilon, median) if value)]) * 1.04 or 1.0
    axes.step([*radii, end], [*shares, shares[-1]], where="post", color=ACCENT, linewidth=2)
    axes.set_ylim(0, 103)
    axes.set_xlim(0, end)
    axes.yaxis.set_major_formatter("{x:.0f}%")
    _mark(axes, epsilon, median)
    first, last = shares[0], shares[-1]
    description = (
        f"Robust accuracy falls from {first:.1f}% at radius 0 to {last:.1f}% at {radii[-1]:.4g}"
    )
    return to_svg(figure, description + _name_marks(epsilon, median))


def draw_distances(distances, epsilon=None, median=None):
    """Draws a histogram of the perturbations that were found, without clean mistakes.

    Args:
        distances: array; only values that are positive and finite are shown, at least one.
        epsilon: number, the radius of the threat model, marked; or `None`.
        median: number, the median distance, marked; or `None`.
    """
    shown = distances[(distances > 0.0) & np.isfinite(distances)]
    figure, axes = _axes("smallest perturbation found", "examples")
    counts, edges = np.histogram(shown, bins=_BINS, range=(0.0, float(shown.max())))
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=ACCENT, alpha=0.7)
    axes.set_ylim(0, 1.12 * counts.max())
    axes.set_xlim(0, 1.04 * max([edges[-1], *(value for value in (epsilon, median) if value)]))
    axes.yaxis.get_major_locator().set_params(integer=True)
    _mark(axes, epsilon, median)
    description = (
        f"Sizes of the smallest perturbations of {len(shown)} examples, from {shown.min():.4g} "
        f"to {shown.max():.4g}"
    )
    return to_svg(figure, description + _name_marks(epsilon, median))


def _axes(x_label, y_label):
    figure = make_figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label, color=INK, fontsize=11)
    axes.set_ylabel(y_label, color=INK, fontsize=11)
    axes.tick_params(colors=INK, labelsize=10)
    axes.grid(color=INK, alpha=0.15)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _mark(axes, epsilon, median):
    """Draws upright lines at the radius of the threat model and at the median."""
    for value, name, colour, style in (
        (epsilon, "epsilon", WARNING, "--"),
        (median, "median", INK, ":"),
    ):
        if value is not None:
            label = f"{name} {value:.4g}"
            axes.axvline(value, color=colour, linestyle=style, linewidth=1.5, label=label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", labelcolor=INK, fontsize=10, frameon=False)


def _name_marks(epsilon, median):
    marks = (("epsilon", epsilon), ("median", median))
    return "".join(f", {name} at {value:.4g}" for name, value in marks if value is not None) + "."
