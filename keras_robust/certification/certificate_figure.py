"""The figure of a certificate report."""

import textwrap

from keras_robust.certification.certificate_texts import arguments_of
from keras_robust.certification.certificate_texts import decided_radius
from keras_robust.certification.certificate_texts import figures_of
from keras_robust.certification.certificate_texts import title_of
from keras_robust.evaluation.reports.characters import one_line
from keras_robust.evaluation.reports.figures import make_figure

# Characters in a line over and under the axes.
_TITLE_WIDTH = 65
_WIDTH = 80


def draw_certificate(report, robustness=None):
    """Returns a figure of certified accuracy against the radius.

    Args:
        report: `CertificateReport`.
        robustness: `RobustnessReport` with a curve, of the same model and norm, or `None`. Defaults
            to `None`.

    Raises:
        ValueError: if `robustness` is of another norm or has no curve.
    """
    figure = make_figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    # A radius counts every example that is certified up to it, hence where="pre".
    label = f"certified: {one_line(report.method['class_name'])}"
    axes.step(*_corners(report), where="pre", label=label)
    if robustness is not None:
        _draw_robust(axes, robustness, report.norm)
    axes.set_ylabel("accuracy")
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, 1.03)
    axes.grid(alpha=0.2)
    texts = axes.legend(loc="best").get_texts()
    title = textwrap.fill(title_of(report), _TITLE_WIDTH)
    caption = (textwrap.fill(text, _WIDTH) for text in (figures_of(report), arguments_of(report)))
    texts.append(axes.set_title(title, fontsize="medium"))
    texts.append(axes.set_xlabel(f"radius, {report.norm}"))
    texts.append(figure.supxlabel("\n".join(caption), fontsize="small"))
    # A dollar sign in a name would start a formula.
    for text in texts:
        text.set_parse_math(False)
    return figure


def _corners(report):
    """Returns radii and certified accuracies, with 0 beyond the largest certified radius."""
    radii, shares = report.curve["radii"], report.curve["certified_accuracy"]
    ends, decided = [radii[-1]], decided_radius(report)
    # A radius that was tried alone belongs to the curve, even if it was proved nowhere.
    if decided is not None and decided > radii[-1]:
        ends.append(decided)
    return [*radii, *ends], [*shares, *(0.0 for _ in ends)]


def _draw_robust(axes, robustness, norm):
    found = robustness.threat_model["class_name"], robustness.curve
    if found[0] != norm or found[1] is None:
        raise ValueError(
            f"Expected a RobustnessReport under {norm} with a curve. Received: a report "
            f"under {found[0]}{'' if found[1] else ' without a curve'}"
        )
    curve = robustness.curve
    label = f"under attack: {one_line(curve['attack'])}"
    # An example is broken at exactly the distance of its mistake, hence where="post".
    axes.step(curve["epsilons"], curve["robust_accuracy"], where="post", label=label)
