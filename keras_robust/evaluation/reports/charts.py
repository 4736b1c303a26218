"""The charts of the HTML report, as `<svg>` elements."""

import numpy as np

from keras_robust.evaluation.reports.figures import ACCENT
from keras_robust.evaluation.reports.figures import INK
from keras_robust.evaluation.reports.figures import WARNING
from keras_robust.evaluation.reports.figures import make_figure
from keras_robust.evaluation.reports.figures import to_svg

# In inches. The page scales the chart to its own width, so these inches only set the size of the
# text relative to the chart.
_SIZE = (5.0, 3.2)
_BINS = 30


def draw_curve(curve, epsilon=None, median=None):
    """Draws robust accuracy against the radius.

    Args:
        curve: dict with `"epsilons"` and `"robust_accuracy"`, as from `robustness_curve`.
        epsilon: number, the radius of the threat model to mark, or `None`.
        median: number, the median distance to mark, or `None`.
    """
    figure, axes = _axes("radius epsilon", "robust accuracy")
    radii = np.asarray(curve["epsilons"])
    shares = 100.0 * np.asarray(curve["robust_accuracy"])
    # Extend the axis to the right, because the last step of the curve may be at its edge. The axis
    # needs a width even if all distances are 0.
    end = max([radii[-1], *(value for value in (epsilon, median) if value)]) * 1.04 or 1.0
    axes.step([*radii, end], [*shares, shares[-1]], where="post", color=ACCENT, linewidth=2)
    # Above 100%, so that the frame does not cut the line of a perfect accuracy.
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
    """Draws a histogram of the sizes of the perturbations found, without clean mistakes.

    Args:
        distances: array with at least one positive finite value; only these are shown.
        epsilon: number, the radius of the threat model to mark, or `None`.
        median: number, the median distance to mark, or `None`.
    """
    shown = distances[(distances > 0.0) & np.isfinite(distances)]
    figure, axes = _axes("smallest perturbation found", "examples")
    # Start the bins at 0, so that the position of the first bar shows its distance from 0.
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
    """Draws vertical lines at the radius of the threat model and at the median."""
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
